"""A server on a real socket that speaks the OpenAI API for any `Model`, such as one that says what a script says."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from minimax_code.errors import ModelError
from minimax_code.model import Message, Model, Reply, Request, ToolCall, ToolSpec

_MOST = 64 << 20  # bytes of a request


class ModelServer:
    """Serves a model for as long as the `with` block lasts.

        with ModelServer(ScriptedModel(["Hello!"])) as server:
            MiniMaxM3(base_url=server.base_url).complete("Say hello")

    It takes what `ServerModel` asks with: chat completions in one piece, tools, JSON schemas. A request for a single
    token asks what the server can do; it is answered from the model's abilities, without asking the model.
    Requests are answered one at a time, in the order that they come.

    Attributes:
        base_url: where it is.
    """

    def __init__(self, model: Model) -> None:
        self._model, self._turn = model, threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(*server._get(self.path))

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                if length > _MOST:
                    self._answer(413, _error("the request is too large"))
                else:
                    self._answer(*server._post(self.path, self.rfile.read(length)))

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: what a test prints is the test's."""

        Handler.protocol_version = "HTTP/1.1"
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _get(self, path: str) -> tuple[int, dict[str, Any]]:
        if path != "/v1/models":
            return 404, _error(f"there is no {path} here")
        abilities = asyncio.run(self._model.abilities())
        model = {"id": self._model.name, "object": "model", "max_model_len": abilities.context_tokens}
        return 200, {"object": "list", "data": [model]}

    def _post(self, path: str, content: bytes) -> tuple[int, dict[str, Any]]:
        if path != "/v1/chat/completions":
            return 404, _error(f"there is no {path} here")
        try:
            request = _request(json.loads(content))
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            return 400, _error(f"not a request that is understood here: {error}")
        with self._turn:
            return asyncio.run(self._reply(request))

    async def _reply(self, request: Request) -> tuple[int, dict[str, Any]]:
        abilities = await self._model.abilities()
        if request.tools and not abilities.calls_tools:
            return 400, _error("tools: this model doesn't call any")
        if request.json_schema is not None and not abilities.takes_json_schema:
            return 400, _error("response_format: this model follows no schema")
        try:
            reply = Reply(content="o") if request.max_tokens == 1 else await self._model.reply(request)
        except (ModelError, AssertionError) as error:  # an assertion: the script is at its end
            return 422, _error(str(error))
        return 200, _completion(self._model.name, reply)


def _request(body: dict[str, Any]) -> Request:
    form = body.get("response_format") or {}
    tools = [ToolSpec.model_validate(tool["function"]) for tool in body.get("tools") or ()]
    return Request(
        messages=tuple(_message(message) for message in body["messages"]),
        tools=tuple(tools),
        json_schema=form["json_schema"]["schema"] if form.get("type") == "json_schema" else None,
        max_tokens=body.get("max_tokens") or 1024,
        temperature=body.get("temperature"),
        seed=body.get("seed"),
        stop=tuple(body.get("stop") or ()),
    )


def _message(message: dict[str, Any]) -> Message:
    calls = [
        ToolCall(id=call["id"], name=call["function"]["name"], arguments=call["function"]["arguments"])
        for call in message.get("tool_calls") or ()
    ]
    content, call_id = message.get("content") or "", message.get("tool_call_id")
    return Message(role=message["role"], content=content, calls=tuple(calls), call_id=call_id)


def _completion(model: str, reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.content}
    if reply.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in reply.calls
        ]
    usage = reply.usage
    return {
        "id": "scripted",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason, "logprobs": None}],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        },
    }


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "scripted"}}
