"""Stands where a gate stands before an engine: requests go on to upstreams, with the same limits and counts."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Request, Response

from openm3.errors import InputError
from openm3.server.callers import Caller, caller_of
from openm3.server.disconnect import EventStream, until_disconnect
from openm3.server.errors import ApiError, timed_out
from openm3.server.metrics import Load, Metrics
from openm3.server.schema.health import Health
from openm3.server.upstreams.asked import Asked
from openm3.server.upstreams.exchange import Exchange
from openm3.server.upstreams.pool import Upstreams

if TYPE_CHECKING:
    from openm3.server.settings import Settings

T = TypeVar("T")

_CUT_S = 2.0  # for exchanges to say that they were cut
_PASSED_ON = ("anthropic-version", "anthropic-beta")
_PASSED_BACK = ("retry-after",)


class Relay:
    """Hands requests on to upstreams."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.upstreams, self.metrics = Upstreams(settings), metrics
        self.request_s = settings.request_s
        self.is_closing = False
        self._is_cut = False
        self._limits: set[asyncio.Timeout] = set()  # of what is waited for now
        self._running: Counter[str] = Counter()
        metrics.watch(self._load)

    async def start(self) -> None:
        """Asks the upstreams what they serve."""
        await self.upstreams.start()

    async def aclose(self) -> None:
        """Ends what still runs, each with an error, and closes the connections."""
        loop = asyncio.get_running_loop()
        self._is_cut, deadline = True, loop.time() + _CUT_S
        for limit in self._limits:
            limit.reschedule(loop.time())
        while self._running.total() and loop.time() < deadline:
            await asyncio.sleep(0.01)
        await self.upstreams.aclose()

    @property
    def is_ready(self) -> bool:
        """Whether somebody could answer."""
        return not self.is_closing and any(upstream.is_up for upstream in self.upstreams.all)

    def health(self) -> Health:
        """How busy it is."""
        return Health(
            running=self._running.total(),
            waiting=self.upstreams.num_waiting,
            upstreams=len(self.upstreams.all),
            upstreams_up=sum(upstream.is_up for upstream in self.upstreams.all),
        )

    async def respond(self, request: Request, path: str) -> Response:
        """The response of an upstream to a request for one of its endpoints, `path` behind the version.

        Raises:
            ApiError: nobody can answer, or a limit forbids it.
            ClientDisconnect: the client went away before the response began.
        """
        asked = Asked.read(path, await request.body())
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        exchange = Exchange(self, asked, caller_of(request), headers, request.state.request_id)
        data = exchange.data()
        await until_disconnect(request.receive, _begin(data))
        head = exchange.head
        if head.is_success and asked.is_stream:
            return EventStream(data)
        body = await until_disconnect(request.receive, _joined(data))
        passed = {name: head.headers[name] for name in _PASSED_BACK if name in head.headers}
        return Response(body, head.status_code, passed, media_type=head.headers.get("content-type"))

    async def whole(self, path: str, fields: Any, caller: Caller, request_id: str) -> tuple[int, str]:
        """The status and body of an upstream's response to a body that nobody waits for, as those of batches.

        Raises:
            InputError: it asks for a stream.
            ApiError: nobody can answer, or a limit forbids it.
        """
        asked = Asked.of(path, fields, len(json.dumps(fields)))
        if asked.is_stream:
            raise InputError("stream", "nobody is there to read a stream; leave it out")
        exchange = Exchange(self, asked, caller, {}, request_id)
        async with aclosing(exchange.data()) as data:
            parts = [part async for part in data]
        return exchange.head.status_code, b"".join(parts).decode()

    async def in_time(self, work: Awaitable[T], deadline: float) -> T:
        """The result of `work`.

        Raises:
            ApiError: it comes too late, or the server stops.
        """
        try:
            async with asyncio.timeout_at(deadline) as limit:
                self._limits.add(limit)
                try:
                    return await work
                finally:
                    self._limits.discard(limit)
        except TimeoutError:
            if not limit.expired():
                raise
        if self._is_cut:
            raise ApiError(503, "the server is stopping; the answer is incomplete", code="cancelled")
        raise timed_out(self.request_s)

    @contextmanager
    def counted(self, model: str) -> Iterator[None]:
        """A request for a model runs."""
        self._running[model] += 1
        try:
            yield
        finally:
            self._running[model] -= 1

    def _load(self) -> dict[str, Load]:
        models = {*self.upstreams.models(), *(+self._running)}
        return {model: Load(self._running[model], 0) for model in models}


async def _begin(data: AsyncGenerator[bytes, None]) -> None:
    await anext(data)


async def _joined(data: AsyncGenerator[bytes, None]) -> bytes:
    async with aclosing(data):
        return b"".join([part async for part in data])
