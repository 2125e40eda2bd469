"""Conversations that upstreams answer, for the endpoints that upstreams as a rule don't have.

Each is asked for as the stream of a chat completion, which every server with the OpenAI API has.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from openm3.errors import InputError
from openm3.server.answer import renamed
from openm3.server.callers import Caller
from openm3.server.conversation import Speaker
from openm3.server.errors import ApiError
from openm3.server.schema import response
from openm3.server.schema.chat import ChatRequest
from openm3.server.upstreams.asked import Asked
from openm3.server.upstreams.exchange import Exchange
from openm3.server.wording import Piece
from openm3.text.parse import ToolCall

if TYPE_CHECKING:
    from openm3.server.upstreams.relay import Relay

_PATH = "/chat/completions"
_ENDS: dict[str, response.FinishReason] = {"length": "length", "tool_calls": "tool_calls"}  # all others are "stop"
# What this server knows beyond the OpenAI API and does itself, or can't ask an upstream for.
_OWN = {"openm3", "reasoning_split", "max_completion_tokens"}


class UpstreamTalk:
    """Keeps `Talk`: what upstreams answer."""

    thinks_unless_told = False

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def name(self, asked: str) -> str:
        """What the client called the model."""
        return asked

    def speaker(self, asked: str) -> Speaker:
        """By the upstreams' name. Whether it keeps to schemas nobody tells."""
        upstreams = self._relay.upstreams
        return Speaker(upstreams.theirs(asked), upstreams.window(asked), keeps_to_schemas=False)

    async def converse(self, asked: ChatRequest, fields: Mapping[str, str], request_id: str) -> UpstreamAnswer:
        """The answer to a conversation.

        Raises:
            InputError: it asks for what can't be had of an upstream.
        """
        with renamed(fields):
            if asked.logprobs:
                raise InputError("logprobs", "are not to be had of upstreams here; ask for a chat completion")
        return UpstreamAnswer(self._relay, asked, request_id)


class UpstreamAnswer:
    """One choice while an upstream generates it."""

    def __init__(self, relay: Relay, asked: ChatRequest, request_id: str) -> None:
        body = asked.model_dump(exclude_none=True, by_alias=True, exclude=_OWN)
        body.pop("logprobs", None)  # false
        for message in body["messages"]:
            message["role"] = (
                "system" if message["role"] == "developer" else message["role"]
            )  # as older servers know it
        most = asked.max_completion_tokens or asked.max_tokens
        body |= {"stream": True, "stream_options": {"include_usage": True}} | ({"max_tokens": most} if most else {})
        self._relay, self._request_id = relay, request_id
        self._asked = Asked.of(_PATH, body, len(json.dumps(body)))
        self._usage: dict[str, Any] = {}
        self._calls: dict[int, dict[str, str]] = {}
        self._end: str | None = None
        self._stop: str | None = None

    @property
    def usage(self) -> response.Usage:
        """The tokens that the upstream has told of so far."""
        usage = self._usage
        prompt, answer = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
        read, thought = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
        return response.Usage(
            prompt_tokens=prompt,
            completion_tokens=answer,
            total_tokens=prompt + answer,
            prompt_tokens_details=response.PromptDetails(cached_tokens=read.get("cached_tokens") or 0),
            completion_tokens_details=response.CompletionDetails(reasoning_tokens=thought.get("reasoning_tokens") or 0),
        )

    async def pieces(self, caller: Caller) -> AsyncGenerator[Piece, None]:
        """The answer piece by piece; closing it ends the request at the upstream.

        Raises:
            ApiError: the upstream refuses or fails, or a limit forbids it.
        """
        exchange = Exchange(self._relay, self._asked, caller, {}, self._request_id)
        async with aclosing(exchange.data()) as data:
            await anext(data)
            if not exchange.head.is_success:
                raise _refused(exchange.head.status_code, b"".join([part async for part in data]))
            yield Piece(0)
            async for event in data:
                for line in event.splitlines():
                    if line.startswith(b"data: {") and (piece := self._read(json.loads(line[6:]))):
                        yield piece
        if self._end is None:
            raise ApiError(502, "the server that answers has broken off", code="upstream_failed")
        calls = tuple(_call(i, self._calls[index]) for i, index in enumerate(sorted(self._calls)))
        yield Piece(
            0, finish_reason="tool_calls" if calls else _ENDS.get(self._end, "stop"), calls=calls, stop=self._stop
        )

    def _read(self, chunk: dict[str, Any]) -> Piece | None:
        """What a chunk adds."""
        if isinstance(error := chunk.get("error"), dict):
            raise ApiError(502, str(error.get("message")), code=str(error.get("code") or "upstream_failed"))
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            for call in delta.get("tool_calls") or ():
                known = self._calls.setdefault(call.get("index") or 0, {"name": "", "arguments": ""})
                for name, part in (call.get("function") or {}).items():
                    known[name] = known.get(name, "") + (part or "")
            self._end = choice.get("finish_reason") or self._end
            self._stop = stop if isinstance(stop := choice.get("stop_reason"), str) else None  # vLLM's name
            thought = delta.get("reasoning_content") or delta.get("reasoning") or ""  # vLLM's older and newer name
            if thought or delta.get("content"):
                return Piece(0, delta.get("content") or "", reasoning=thought)
        return None


def _call(index: int, call: dict[str, str]) -> ToolCall:
    arguments = call["arguments"] or "{}"
    try:
        is_object = isinstance(json.loads(arguments), dict)
    except ValueError:
        is_object = False
    if not is_object:
        raise ApiError(502, f"the upstream's call of {call['name']!r} has no JSON object", code="upstream_failed")
    return ToolCall(index, call["name"], arguments)


def _refused(status: int, body: bytes) -> ApiError:
    """An upstream's error, of the shape that `Exchange` has seen to."""
    error = json.loads(body)["error"]
    if not isinstance(error, dict):
        error = {"message": error}
    code = str(error.get("code") or "upstream_error")
    return ApiError(status, str(error.get("message")), code=code, param=error.get("param"))
