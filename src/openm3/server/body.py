"""How the body of a request is read: up to a limit, and as JSON in the strict sense."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openm3.server.errors import ApiError


class BodyLimit:
    """Refuses a body of more than `max_bytes`, by its declared length at once, otherwise while it is read.

    One that takes longer than `max_s` to arrive is refused too. `others` has the two limits of paths with their own.
    """

    def __init__(
        self, app: ASGIApp, max_bytes: int, max_s: float, others: Mapping[str, tuple[int, float]] = MappingProxyType({})
    ) -> None:
        self._app = app
        self._limits, self._others = (max_bytes, max_s), others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        max_bytes, max_s = self._others.get(scope["path"], self._limits)
        num_bytes, deadline = 0, asyncio.get_running_loop().time() + max_s
        ended = False

        async def receive_limited() -> Message:
            nonlocal num_bytes, ended
            if ended:
                return await receive()  # which waits for the client to go away
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                told = f"the body took longer than {max_s:g} seconds to arrive"
                raise ApiError(408, told, code="body_too_slow") from None
            num_bytes += len(message.get("body", b""))
            _check(num_bytes, max_bytes)
            ended = not message.get("more_body", False)
            return message

        _check(int(Headers(scope=scope).get("content-length", "0")), max_bytes)
        await self._app(scope, receive_limited, send)


def _check(num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise ApiError(413, f"the body is over the limit of {max_bytes} bytes", code="body_too_large")


class JsonRoute(APIRoute):
    """A route whose body is JSON without Python's liberties.

    `json.loads` would let NaN pass, halves of surrogate pairs, which no tokenizer can encode, and UTF-16.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_strictly


class _JsonRequest(Request):
    async def json(self) -> Any:
        return from_json(await self.body(), allow_inf_nan=False)
