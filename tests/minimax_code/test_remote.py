"""A model behind a server: what it can is asked and tried, and what it answers is read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import httpx2
import pytest

from minimax_code.errors import ModelError
from minimax_code.model import Abilities, Message, Reply, Request, ToolCall, ToolSpec, Usage
from minimax_code.remote import ServerModel

HELLO = Request(messages=(Message(role="user", content="Hello"),))
TOOL = ToolSpec(name="read", description="Reads.", parameters={"type": "object", "properties": {}})


class Server(httpx2.AsyncBaseTransport):
    """A server of one model. What it can't do it refuses, as real ones do.

    Attributes:
        bodies: of the requests for completions.
    """

    def __init__(
        self, *, model: dict[str, Any], refuses: tuple[str, ...] = (), message: dict[str, Any] | None = None,
        serves: int = 1, has_default: bool = False,
    ) -> None:  # fmt: skip
        self._serves, self._has_default = serves, has_default
        self._model, self._refuses, self._message = model, refuses, message or {}
        self.bodies: list[dict[str, Any]] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/models/default") and self._has_default:
            model = {"id": "m", "object": "model", "created": 0, **self._model}
            return httpx2.Response(200, json=model, request=request)
        if "/models/" in request.url.path:
            error = {"error": {"message": "there is none of this name", "type": "invalid_request_error"}}
            return httpx2.Response(404, json=error, request=request)
        if request.method == "GET":
            listed = {
                "object": "list",
                "data": [
                    {"id": "mn"[:i], "object": "model", "created": 0, **self._model} for i in range(1, self._serves + 1)
                ],
            }
            return httpx2.Response(200, json=listed, request=request)
        body = json.loads(await request.aread())
        self.bodies.append(body)
        if field := next((name for name in self._refuses if name in body), None):
            error = {"error": {"message": f"{field} is not supported", "type": "invalid_request_error"}}
            return httpx2.Response(400, json=error, request=request)
        message = {"role": "assistant", "content": "Hi.", **self._message}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
        usage |= {"prompt_tokens_details": {"cached_tokens": 5}}  # type: ignore[dict-item]
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        return httpx2.Response(200, json={**answer, "usage": usage}, request=request)


def asked(server: Server, ask: Callable[[ServerModel], Coroutine[Any, Any, Any]], **options: Any) -> Any:
    async def go() -> Any:
        model = ServerModel(base_url="http://test/v1", api_key="k", transport=server, **options)
        try:
            return await ask(model)
        finally:
            await model.close()

    return asyncio.run(go())


@pytest.mark.parametrize(
    ("said", "window"),
    [
        ({"max_model_len": 32_768}, 32_768),  # vLLM, openm3 serve
        ({"context_length": 200_000}, 200_000),
        ({"meta": {"n_ctx": 4096, "n_ctx_train": 131_072}}, 4096),  # llama.cpp: what runs, not what was trained
        ({"meta": {"n_ctx_train": 8192}}, 8192),
    ],
)
def test_the_window_is_what_the_server_says(said: dict[str, Any], window: int) -> None:
    abilities = asked(Server(model=said), lambda model: model.abilities())
    assert abilities == Abilities(context_tokens=window, calls_tools=True, takes_json_schema=True)


def test_a_window_that_nobody_knows_is_not_guessed() -> None:
    with pytest.raises(ModelError, match="doesn't say how long the model's window is; give it with --context-tokens"):
        asked(Server(model={}), lambda model: model.abilities())
    known = asked(Server(model={}), lambda model: model.abilities(), context_tokens=9000)
    assert known.context_tokens == 9000


def test_a_model_that_nobody_named_is_the_only_one_or_it_is_asked_for() -> None:
    async def name(model: ServerModel) -> str:
        await model.abilities()
        return model.name

    assert asked(Server(model={"max_model_len": 100}), name) == "m at test"
    with pytest.raises(ModelError, match="the server has none; name one with --model"):
        asked(Server(model={}, serves=0), name)
    with pytest.raises(ModelError, match="the server has m, mn; name one with --model"):
        asked(Server(model={}, serves=2), name)


def test_a_model_is_known_by_the_name_that_the_server_lists() -> None:
    """So that it is calibrated once, whatever it is called."""

    async def window_and_name(model: ServerModel) -> tuple[int, str]:
        return (await model.abilities()).context_tokens, model.name

    server = Server(model={"max_model_len": 100}, serves=2, has_default=True)
    for named in (None, "default", "m"):
        assert asked(server, window_and_name, model=named) == (100, "m at test")
    with pytest.raises(ModelError, match="other at test: the server doesn't say how long"):
        asked(server, window_and_name, model="other")


def test_what_the_server_refuses_it_cant_do_and_it_is_tried_once() -> None:
    server = Server(model={"max_model_len": 100}, refuses=("tools", "response_format"))

    async def twice(model: ServerModel) -> Abilities:
        await asyncio.gather(model.abilities(), model.abilities())
        return await model.abilities()

    assert asked(server, twice) == Abilities(context_tokens=100)
    assert len(server.bodies) == 2


def test_a_conversation_with_calls_goes_there_and_comes_back() -> None:
    made = {"id": "x", "type": "function", "function": {"name": "read", "arguments": '{"path": "a"}'}}
    message = {"content": None, "tool_calls": [made], "reasoning_content": "Let me see."}
    server = Server(model={}, message=message)
    call = ToolCall(id="x", name="read", arguments='{"path": "a"}')
    request = Request(
        messages=(
            Message(role="assistant", calls=(call,)),
            Message(role="tool", content="text", call_id="x"),
        ),
        tools=(TOOL,), max_tokens=7, temperature=0.0, seed=3, stop=("END",),
    )  # fmt: skip
    reply = asked(server, lambda model: model.reply(request))
    usage = Usage(prompt_tokens=9, cached_tokens=5, completion_tokens=2)
    assert reply == Reply(calls=(call,), thinking="Let me see.", finish_reason="tool_calls", usage=usage)
    assert server.bodies == [
        {
            "model": "default",
            "messages": [
                {"role": "assistant", "content": "", "tool_calls": [made]},
                {"role": "tool", "tool_call_id": "x", "content": "text"},
            ],
            "tools": [{"type": "function", "function": TOOL.model_dump()}],
            "max_tokens": 7, "temperature": 0.0, "seed": 3, "stop": ["END"],
        }
    ]  # fmt: skip


def test_a_schema_is_sent_as_the_api_has_it() -> None:
    server = Server(model={})
    asked(server, lambda model: model.reply(HELLO.model_copy(update={"json_schema": {"type": "object"}})), model="m")
    sent = server.bodies[0]["response_format"]
    form = {"name": "answer", "strict": True, "schema": {"type": "object"}}
    assert sent == {"type": "json_schema", "json_schema": form}


def test_a_server_that_refuses_or_isnt_there_is_a_sentence() -> None:
    with pytest.raises(ModelError, match=r"the model at test: .*messages is not supported"):
        asked(Server(model={}, refuses=("messages",)), lambda model: model.reply(HELLO))

    async def nobody() -> None:
        await ServerModel(base_url="http://127.0.0.1:9/v1").abilities()

    with pytest.raises(ModelError, match=r"no server answers at http://127\.0\.0\.1:9; start one"):
        asyncio.run(nobody())
