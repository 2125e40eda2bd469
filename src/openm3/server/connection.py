"""A connection: what uvicorn does, and an end to clients that keep it waiting."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """Cuts a client that takes too long to say what it wants, or to read what it asked for.

    Without an end, the first holds a connection for nothing, the second the memory of what it doesn't read.

    Args:
        head_s: the longest time from connecting, or from the first byte of a further request, to the end of its head.
        send_s: the longest time for which the client may take nothing of what waits for it.
    """

    def __init__(self, *args: Any, head_s: float, send_s: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head, self._send = _Timer(head_s), _Timer(send_s)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Begins to wait for a head."""
        super().connection_made(transport)
        self._head.start(transport)

    def data_received(self, data: bytes) -> None:
        """A head has ended, or a further one has begun."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._head.start(self.transport)
        else:
            self._head.stop()

    def pause_writing(self) -> None:
        """The client doesn't read as fast as we write."""
        super().pause_writing()
        self._send.start(self.transport)

    def resume_writing(self) -> None:
        """It has read most of it."""
        super().resume_writing()
        self._send.stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        super().connection_lost(exc)
        self._head.stop()
        self._send.stop()


class _Timer:
    """Cuts a connection unless it is stopped in time; starting it again changes nothing."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._handle: asyncio.TimerHandle | None = None

    def start(self, transport: asyncio.Transport) -> None:
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_later(self._seconds, transport.abort)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


def connections(*, head_s: float, send_s: float) -> Any:
    """What uvicorn takes for its protocol class."""
    return partial(Connection, head_s=head_s, send_s=send_s)
