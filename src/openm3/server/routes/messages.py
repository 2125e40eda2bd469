"""`POST /v1/messages`, `POST /anthropic/v1/messages` and their `/count_tokens`, as in the Anthropic API."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING
from uuid import uuid4

from fastapi import APIRouter, Request, Response

from openm3.server.answer import respond
from openm3.server.body import JsonRoute
from openm3.server.conversation import Talk, encode
from openm3.server.errors import ApiError
from openm3.server.from_messages import as_chat
from openm3.server.schema import messages_answer as said
from openm3.server.schema.messages import CountRequest, MessagesRequest
from openm3.server.schema.response import AnthropicError, FinishReason, Usage, documented
from openm3.server.wording import Piece, Wording, sent_event
from openm3.text.parse import ToolCall

if TYPE_CHECKING:
    from openm3.server.backend import Backend

_BASES = ("", "/anthropic")
_STOP_REASONS: dict[FinishReason, said.StopReason] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
}


def router(talk: Talk) -> APIRouter:
    """The endpoints of the Anthropic API, which `talk` answers."""
    routes = APIRouter(route_class=JsonRoute)

    async def create(asked: MessagesRequest, request: Request) -> Response:
        """Answers the last message; with `stream`, as server-sent events."""
        chat, fields = as_chat(asked, thinks_unless_told=talk.thinks_unless_told)
        answer = await talk.converse(chat, fields, request.state.request_id)
        return await respond(request, answer, MessagesWording(talk.name(asked.model)), stream=bool(asked.stream))

    for base in _BASES:
        path = f"{base}/v1/messages"
        routes.post(path, response_model=said.Message, responses=documented(AnthropicError, streams=True))(create)
    return routes


def counting_router(service: Backend) -> APIRouter:
    """The endpoints that count tokens, by the served model's tokenizer."""
    routes = APIRouter(route_class=JsonRoute)

    async def count(asked: CountRequest) -> said.TokenCount:
        """Counts the tokens of a conversation."""
        prompt = await encode(service, *as_chat(asked, thinks_unless_told=service.llm.has_thinking_modes))
        return said.TokenCount(input_tokens=len(prompt.ids))

    for base in _BASES:
        routes.post(f"{base}/v1/messages/count_tokens", responses=documented(AnthropicError))(count)
    return routes


class MessagesWording(Wording):
    """Messages of blocks, and events that open, fill and close one block after the other."""

    def __init__(self, model: str) -> None:
        self._id, self._model = f"msg_{uuid4().hex}", model
        self._index = -1  # of the newest block
        self._open: said.Text | said.Thought | None = None  # that block with all of its text, while more may follow
        self._last: Piece | None = None

    def whole(self, choices: Iterable[Piece], usage: Usage) -> said.Message:
        [piece] = choices
        content: list[said.Block] = []
        if piece.reasoning:
            content.append(said.Thought(thinking=piece.reasoning, signature=_signature(piece.reasoning)))
        if piece.text:
            content.append(said.Text(text=piece.text))
        content += [_tool_use(call) for call in piece.calls]
        return self._message(content, usage, _ending(piece))

    def begin(self, usage: Usage) -> Iterable[bytes]:
        yield _event(said.MessageStart(message=self._message([], usage, None)))
        yield _event(said.Ping())

    def events(self, piece: Piece) -> Iterable[bytes]:
        if piece.reasoning:
            yield from self._think(piece.reasoning)
        if piece.text:
            yield from self._say(piece.text)
        for call in piece.calls:
            yield from self._call(call)
        self._last = piece

    def end(self, usage: Usage) -> Iterable[bytes]:
        assert self._last is not None
        yield from self._close()
        yield _event(said.MessageDelta(delta=_ending(self._last), usage=_usage(usage)))
        yield _event(said.MessageStop())

    def failure(self, error: ApiError, request_id: str) -> Iterable[bytes]:
        return [b"event: error\ndata: " + error.body("anthropic", request_id) + b"\n\n"]

    def _message(self, content: list[said.Block], usage: Usage, ending: said.Ending | None) -> said.Message:
        return said.Message(
            id=self._id,
            model=self._model,
            content=content,
            stop_reason=ending.stop_reason if ending else None,
            stop_sequence=ending.stop_sequence if ending else None,
            usage=_usage(usage),
        )

    def _think(self, text: str) -> Iterable[bytes]:
        if not isinstance(self._open, said.Thought):
            yield from self._start(said.Thought(thinking="", signature=""))
        assert isinstance(self._open, said.Thought)
        self._open.thinking += text
        yield self._delta(said.ThinkingDelta(thinking=text))

    def _say(self, text: str) -> Iterable[bytes]:
        if not isinstance(self._open, said.Text):
            yield from self._start(said.Text(text=""))
        yield self._delta(said.TextDelta(text=text))

    def _call(self, call: ToolCall) -> Iterable[bytes]:
        yield from self._start(_tool_use(call).model_copy(update={"input": {}}))
        yield self._delta(said.InputDelta(partial_json=call.arguments))
        yield _event(said.BlockStop(index=self._index))

    def _start(self, block: said.Block) -> Iterable[bytes]:
        yield from self._close()
        self._index += 1
        yield _event(said.BlockStart(index=self._index, content_block=block))
        self._open = None if isinstance(block, said.ToolUse) else block

    def _close(self) -> Iterable[bytes]:
        """Closes the block that is open."""
        if self._open is None:
            return
        if isinstance(self._open, said.Thought):
            yield self._delta(said.SignatureDelta(signature=_signature(self._open.thinking)))
        yield _event(said.BlockStop(index=self._index))
        self._open = None

    def _delta(self, delta: said.TextDelta | said.ThinkingDelta | said.SignatureDelta | said.InputDelta) -> bytes:
        return _event(said.BlockDelta(index=self._index, delta=delta))


def _event(event: said.StreamEvent) -> bytes:
    return sent_event(event, event.type)


def _ending(piece: Piece) -> said.Ending:
    assert piece.finish_reason, "the service ended a stream without a reason"
    reason = "stop_sequence" if piece.stop is not None else _STOP_REASONS[piece.finish_reason]
    return said.Ending(stop_reason=reason, stop_sequence=piece.stop)


def _usage(usage: Usage) -> said.Usage:
    cached = usage.prompt_tokens_details.cached_tokens
    thought = usage.completion_tokens_details.reasoning_tokens
    return said.Usage(
        input_tokens=usage.prompt_tokens - cached,
        cache_read_input_tokens=cached,
        output_tokens=usage.completion_tokens,
        output_tokens_details=said.OutputDetails(thinking_tokens=thought),
    )


def _tool_use(call: ToolCall) -> said.ToolUse:
    return said.ToolUse(id=f"toolu_{uuid4().hex}", name=call.name, input=json.loads(call.arguments))


def _signature(thinking: str) -> str:
    return hashlib.blake2b(thinking.encode(), digest_size=16).hexdigest()
