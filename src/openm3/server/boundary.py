"""What surrounds every request: its id, and the last resort for errors."""

from __future__ import annotations

from uuid import uuid4

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openm3.server.errors import as_api_error, shape_of


class RequestBoundary:
    """Gives every response an `x-request-id`, and answers errors that no handler foresaw.

    On the paths of the Anthropic API it is `request-id` too, as clients know it there.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        # Never the client's own: what it sends would reach the logs.
        request_id = f"req_{uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = request_id
        shape = shape_of(scope["path"])
        names = ("x-request-id", "request-id") if shape == "anthropic" else ("x-request-id",)
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                for name in names:
                    MutableHeaders(scope=message)[name] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            if started:
                raise
            await as_api_error(error, request_id).response(shape, request_id)(scope, receive, send_with_id)
