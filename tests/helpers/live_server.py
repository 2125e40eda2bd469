"""A server on a real socket, in a thread of the test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from openm3.server.listener import Server, listen, url
from openm3.server.settings import Settings


@contextmanager
def live_server(service: Any, *, port: int = 0, tracing: Any = None, **settings: Any) -> Generator[str, None, None]:
    """Serves `service` (the real one, a scripted one, or None for upstreams) on a free port and yields the base URL.

    Args:
        tracing: what is told of the requests.
        settings: fields of `openm3.server.settings.Settings`.
    """
    ready = threading.Event()
    with listen("127.0.0.1", port) as listener:
        server = Server(service, Settings(**settings), on_ready=ready.set, tracing=tracing)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="live-server")
        thread.start()
        try:
            assert ready.wait(10), "the server did not start"
            yield url(listener)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the server did not stop"


def eventually(condition: Callable[[], bool], within_s: float = 1.0) -> bool:
    """Whether `condition` becomes true in time."""
    deadline = time.monotonic() + within_s
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return met
