"""A model behind any server that speaks the OpenAI API: ours, MiniMax's, vLLM, llama.cpp and others."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx2
import openai

from minimax import AsyncMiniMaxM3
from minimax_code.errors import InputError, ModelError
from minimax_code.model import Abilities, Message, Reply, Request, ToolCall, ToolSpec, Usage, window_of

_PROBE = ToolSpec(name="noop", description="Does nothing.", parameters={"type": "object", "properties": {}})
_SCHEMA: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_CANT = (400, 404, 405, 422, 500, 501)  # what servers answer to a field that they don't support


class ServerModel:
    """A model of a server, asked through the SDK's client, which retries what a retry can mend.

        model = ServerModel(base_url="http://127.0.0.1:8000/v1")

    What the server doesn't say about itself is tried: two short requests, once.

    Args:
        base_url, api_key: as of `minimax.MiniMaxM3`: else those of the environment, else a local server.
        model: by a name that the server knows; else the only one that it serves, or its "default".
        context_tokens: the model's window, for a server that doesn't say.
        timeout: seconds for one reply.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        model: str | None = None,
        *,
        context_tokens: int | None = None,
        timeout: float = 1800.0,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        if base_url is not None and not base_url.startswith(("http://", "https://")):
            raise InputError("base_url", f"{base_url!r} is no address; write it as in http://127.0.0.1:8000/v1")
        self._client = AsyncMiniMaxM3(base_url=base_url, api_key=api_key, timeout=timeout, transport=transport)
        self._model, self._context_tokens = model, context_tokens
        self._abilities: Abilities | None = None
        self._asking = asyncio.Lock()

    @property
    def name(self) -> str:
        """The model's name and the server's address."""
        return f"{self._model or 'the model'} at {self._client.base_url.host}"

    async def abilities(self) -> Abilities:
        """What the server says of the model, and what it takes when it is tried.

        Raises:
            ModelError: it can't be reached, refuses, or doesn't say how long the window is.
        """
        async with self._asking:
            if self._abilities is None:
                window = await self._find()
                calls, schema = await asyncio.gather(
                    self._takes(tools=(_PROBE,)),
                    self._takes(json_schema=_SCHEMA),
                )
                self._abilities = Abilities(context_tokens=window, calls_tools=calls, takes_json_schema=schema)
        return self._abilities

    async def reply(self, request: Request) -> Reply:
        """Its answer.

        Raises:
            ModelError: it can't be reached, or refuses.
        """
        try:
            answer = await self._client.chat.completions.create(
                **_body(self._model or self._client.defaults.model, request)
            )
        except openai.OpenAIError as error:
            raise ModelError(f"{self.name}: {error}") from error
        if not answer.choices:
            raise ModelError(f"{self.name}: the answer has no choices")
        return _reply(answer)

    async def close(self) -> None:
        """Ends the connections."""
        await self._client.close()

    async def _find(self) -> int:
        """Its window; and its name, where the user has given none."""
        if self._model and self._context_tokens:
            return self._context_tokens
        try:
            served = {model.id: window_of(model.model_dump()) async for model in self._client.models.list()}
        except openai.OpenAIError as error:
            raise ModelError(f"{self.name}: {error}") from error
        if self._model is None and len(served) == 1:
            (self._model,) = served
        if (name := self._model or self._client.defaults.model) in served:
            self._model = name
        elif found := await self._by_other_name(name):
            self._model = found.id
            served[found.id] = window_of(found.model_dump())
        if self._model is None:
            names = ", ".join(served) or "none"
            raise ModelError(f"{self.name}: the server has {names}; name one with --model (model)")
        window = self._context_tokens or served.get(self._model)
        if window is None:
            raise ModelError(
                f"{self.name}: the server doesn't say how long the model's window is; give it with --context-tokens "
                "(context_tokens)"
            )
        return window

    async def _by_other_name(self, name: str) -> Any:
        """A model that the server lists by another name: ours knows "default" and "minimax-m3" for what it serves."""
        try:
            return await self._client.models.retrieve(name)
        except openai.OpenAIError:  # what is wrong with the name the first question to the model will say
            return None

    async def _takes(self, **field: Any) -> bool:
        request = Request(messages=(Message(role="user", content="Hello"),), max_tokens=1, **field)
        try:
            await self._client.chat.completions.create(**_body(self._model or self._client.defaults.model, request))
        except openai.APIStatusError as error:
            if error.status_code in _CANT:
                return False
            raise ModelError(f"{self.name}: {error}") from error
        except openai.OpenAIError as error:
            raise ModelError(f"{self.name}: {error}") from error
        return True


def _body(model: str, request: Request) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(message) for message in request.messages],
        "max_tokens": request.max_tokens,
    }
    if request.tools:
        body["tools"] = [{"type": "function", "function": tool.model_dump()} for tool in request.tools]
    if request.json_schema is not None:
        form = {"name": "answer", "strict": True, "schema": dict(request.json_schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    for name in ("temperature", "seed"):
        if (value := getattr(request, name)) is not None:
            body[name] = value
    if request.stop:
        body["stop"] = list(request.stop)
    return body


def _message(message: Message) -> dict[str, Any]:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.call_id, "content": message.content}
    told: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.calls:
        told["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.calls
        ]
    return told


def _reply(answer: Any) -> Reply:
    choice, usage = answer.choices[0], answer.usage
    message = choice.message
    calls = tuple(
        ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments or "{}")
        for call in message.tool_calls or ()
        if call.type == "function"
    )
    reason = choice.finish_reason
    details = getattr(usage, "prompt_tokens_details", None)
    return Reply(
        content=message.content or "",
        calls=calls,
        thinking=getattr(message, "reasoning_content", None) or "",
        finish_reason="tool_calls" if calls else "length" if reason == "length" else "stop",
        usage=Usage(
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=getattr(details, "cached_tokens", None) or 0,
            completion_tokens=usage.completion_tokens,
        )
        if usage
        else Usage(),
    )
