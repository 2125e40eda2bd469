"""Each request has its line in the log and its count in the metrics, however it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openm3.server import logs
from openm3.server.metrics import Metrics
from openm3.server.record import Record

if TYPE_CHECKING:
    from openm3.server.tracing import Tracing

_LONGEST_PATH = 200
_LONGEST_PROMPT = 64 << 10  # bytes
_CLIENT_WENT_AWAY = 499  # nginx's code, also where no status was sent
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class RequestWatch:
    """Opens a `Record` for each request, and closes it when the response has been sent.

    Args:
        log_prompts: the beginning of the body is logged too.
        tracing: is told of each request.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, *, log_prompts: bool, tracing: Tracing | None) -> None:
        self._app, self._metrics, self._log_prompts, self._tracing = app, metrics, log_prompts, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        record = Record(scope["state"]["request_id"], scope["method"][:16], scope["path"][:_LONGEST_PATH])
        if self._tracing:
            record.trace = self._tracing.begin(record, Headers(scope=scope))
        body = bytearray()

        async def receive_watched() -> Message:
            message = await receive()
            if len(body) < _LONGEST_PROMPT:
                body.extend(message.get("body", b"")[: _LONGEST_PROMPT - len(body)])
            return message

        async def send_watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
            await send(message)

        try:
            with record.current():
                await self._app(scope, receive_watched if self._log_prompts else receive, send_watched)
        except Exception as error:  # the boundary outside answers it
            record.status = record.status or (error.status_code if isinstance(error, HTTPException) else 500)
            raise
        finally:
            if self._log_prompts and body:
                record.prompt = body.decode(errors="replace")
            if caller := scope["state"].get("caller"):
                record.key_id = caller.key_id
            # A path or method that nobody serves is the client's own: it gets no number of its own.
            route = getattr(scope.get("route"), "path", "other")
            method = record.method if record.method in _METHODS else "other"
            status = record.status or _CLIENT_WENT_AWAY
            self._metrics.responses.labels(method, route, str(status)).inc()
            if record.trace:
                record.trace.end(record, route, status)
            logs.tell(record)
