"""Transports for tests of programs that use the client: scripted answers, and sessions that were recorded.

    client = MiniMaxM3(transport=ScriptedTransport(["Hello!"]))
    client.complete("Say hello").choices[0].text  # "Hello!"

Both serve the synchronous and the asynchronous client.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx2

from minimax.fences import files
from minimax.methods import GENERATE

Reply = str | Mapping[str, Any] | int | Exception


class ScriptedTransport(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """Answers with what a script says, in its order.

    A string is the text of a completion or chat completion, in one piece or as a stream, as the request asks. A mapping
    is the JSON of an answer, a number the status of an error, an exception is raised.

    Attributes:
        requests: the JSON bodies of the requests so far.

    Raises:
        AssertionError: on the request after the last reply.
    """

    def __init__(self, replies: Iterable[Reply]) -> None:
        self._replies, self._lock = iter(replies), threading.Lock()
        self.requests: list[dict[str, Any]] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The next reply."""
        request.read()
        return self._answer(request)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The next reply."""
        await request.aread()
        return self._answer(request)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content) if request.content else {}
        with self._lock:
            self.requests.append(body)
            reply = next(self._replies, None)
        match reply:
            case None:
                raise AssertionError(f"the script has no reply to request {len(self.requests)}, {request.url}")
            case Exception():
                raise reply
            case int():
                error = {"message": f"scripted status {reply}", "type": "scripted"}
                return httpx2.Response(reply, json={"error": error}, request=request)
            case str() if request.url.path.endswith(GENERATE):
                return _generation(request, body, reply)
            case str():
                return _completion(request, body, reply)
            case _:
                return httpx2.Response(200, json=dict(reply), request=request)


class RecordedTransport(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """Answers from a session that was recorded in a file; requests are told apart by method, path and body.

    With `record`, requests go to the server and are written down with their answers: once, then the file is committed
    and tests run without a server. Keys and headers of requests are not written. The asynchronous client only replays.

    Args:
        path: a file with an exchange a line.
        record: whether to record anew.

    Raises:
        FileNotFoundError: there is no such file, and nothing is to be recorded.
        AssertionError: on a request that the session doesn't have.
    """

    def __init__(self, path: str | Path, *, record: bool = False) -> None:
        self._path, self._server = Path(path), httpx2.HTTPTransport() if record else None
        self._answers: dict[str, list[dict[str, Any]]] = {}
        if record:
            self._path.write_text("")
        for line in self._path.read_text().splitlines():
            exchange = json.loads(line)
            self._answers.setdefault(exchange["request"], []).append(exchange)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The recorded answer, or the server's, which is then written down."""
        request.read()
        if self._server is None:
            return self._replay(request)
        answer = self._server.handle_request(request)
        content = answer.read().decode()
        exchange = {
            "request": _name(request),
            "status": answer.status_code,
            "type": answer.headers.get("content-type", ""),
            "content": content,
        }
        with self._path.open("a") as file:
            file.write(json.dumps(exchange) + "\n")
        return _response(exchange, request)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The recorded answer."""
        assert self._server is None, "record with the synchronous client"
        await request.aread()
        return self._replay(request)

    def close(self) -> None:
        """Ends the connections to the server."""
        if self._server is not None:
            self._server.close()

    def _replay(self, request: httpx2.Request) -> httpx2.Response:
        answers = self._answers.get(_name(request), [])
        assert answers, f"{self._path} has no answer (any more) to {request.method} {request.url.path}; record it anew"
        # What was asked several times is answered in the recorded order, the last answer again and again.
        return _response(answers.pop(0) if len(answers) > 1 else answers[0], request)


def _name(request: httpx2.Request) -> str:
    return f"{request.method} {request.url.path} {request.content.decode()}"


def _response(exchange: Mapping[str, Any], request: httpx2.Request) -> httpx2.Response:
    headers = {"content-type": exchange["type"]}
    return httpx2.Response(exchange["status"], headers=headers, content=exchange["content"].encode(), request=request)


def _completion(request: httpx2.Request, body: Mapping[str, Any], text: str) -> httpx2.Response:
    is_chat, streams = request.url.path.endswith("/chat/completions"), body.get("stream", False)
    head = {"id": "scripted", "created": 0, "model": body.get("model", "scripted")}
    usage = _usage(text)
    if not streams:
        said = {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
        kind = "chat.completion" if is_chat else "text_completion"
        choices = [{"index": 0, "finish_reason": "stop", "logprobs": None, **said}]
        return httpx2.Response(200, json={**head, "object": kind, "choices": choices, "usage": usage}, request=request)
    kind = "chat.completion.chunk" if is_chat else "text_completion"
    events = [_event(head, kind, is_chat, piece, None) for piece in _pieces(text)]
    events.append(_event(head, kind, is_chat, "", "stop"))
    if (body.get("stream_options") or {}).get("include_usage"):
        events.append({**head, "object": kind, "choices": [], "usage": usage})
    return _stream(request, events)


def _generation(request: httpx2.Request, body: Mapping[str, Any], text: str) -> httpx2.Response:
    written = [dataclasses.asdict(file) for file in files(text)]
    whole: dict[str, Any] = {
        "object": "code.generation",
        "content": text,
        "files": written,
        "receipts": [],
        "finish_reason": "stop",
    }
    whole["usage"] = _usage(text)
    if not body.get("stream", False):
        return httpx2.Response(200, json=whole, request=request)
    chunks = [{"object": "code.generation.chunk", "content": piece} for piece in _pieces(text)]
    return _stream(request, [*chunks, whole])


def _stream(request: httpx2.Request, events: Iterable[Mapping[str, Any]]) -> httpx2.Response:
    lines = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=lines.encode(), request=request)


def _pieces(text: str) -> list[str]:
    """The words and the spaces between them."""
    return [piece for word in text.split(" ") for piece in (" ", word)][1:]


def _usage(text: str) -> dict[str, int]:
    num_words = max(1, len(text.split()))
    return {"prompt_tokens": 1, "completion_tokens": num_words, "total_tokens": 1 + num_words}


def _event(head: Mapping[str, Any], kind: str, is_chat: bool, piece: str, reason: str | None) -> dict[str, Any]:
    said: dict[str, Any] = {"delta": {"content": piece}} if is_chat else {"text": piece}
    return {**head, "object": kind, "choices": [{"index": 0, "finish_reason": reason, **said}]}
