"""The socket that the server listens on, and the server's life on it."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvicorn

from openm3.errors import InputError
from openm3.server.app import create_app
from openm3.server.connection import connections
from openm3.server.settings import Settings

if TYPE_CHECKING:
    from openm3.server.backend import Backend
    from openm3.server.tracing import Tracing

_CLOSING_S = 5  # for what is left to be said after the grace; then connections are cut


def listen(host: str, port: int) -> socket.socket:
    """A socket that is listening already, so that the port is surely ours before a model is loaded.

    Raises:
        InputError: the port is in use, or this machine doesn't have the address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError("--port", f"{port} is in use on {host}; choose another, or 0 for any") from error
        if error.errno == errno.EACCES:
            raise InputError("--port", f"{port} needs rights that this user doesn't have") from error
        raise InputError("--host", f"can't listen on {host} ({error.strerror})") from error


def url(listener: socket.socket) -> str:
    """Where clients find the server."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Serves a backend, or the upstreams of the settings, until a signal or `should_exit`.

    Then it accepts nothing more, lets running requests end for `settings.grace_s`, and cancels the rest through what
    answers, so that every one of them gets its error and no connection is cut in the middle.
    """

    def __init__(
        self,
        backend: Backend | None,
        settings: Settings | None = None,
        *,
        on_ready: Callable[[], None] = lambda: None,
        tracing: Tracing | None = None,
    ) -> None:
        self._settings = settings or Settings()
        self._app = create_app(backend, self._settings, tracing=tracing)
        config = uvicorn.Config(
            self._app,
            http=connections(head_s=self._settings.head_s, send_s=self._settings.send_s),
            ws="none",
            log_config=None,  # logging is the program's, not the library's, to set up
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(self._settings.grace_s) + _CLOSING_S,
        )
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.front.is_closing = True
        cancelling = asyncio.create_task(self._cancel_requests())
        try:
            await super().shutdown(sockets)
        finally:
            cancelling.cancel()

    async def _cancel_requests(self) -> None:
        await asyncio.sleep(self._settings.grace_s)
        await asyncio.gather(self._app.state.front.aclose(), self._app.state.extras.cancel())
