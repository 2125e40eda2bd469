"""The gate before a backend: what is too much is refused at once, what takes too long is ended, the rest is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from openm3.engine.fairness import ALONE, Share
from openm3.engine.output import Delta, Event, Stats
from openm3.engine.params import SamplingParams
from openm3.engine.prompt import Prompt
from openm3.server.errors import ApiError, timed_out
from openm3.server.metrics import Load, Metrics, ModelMetrics
from openm3.server.record import Record
from openm3.server.schema.health import Health

if TYPE_CHECKING:
    from openm3.engine.reader import Reader
    from openm3.engine.service import ServiceStatus
    from openm3.server.backend import Backend
    from openm3.server.settings import Settings
    from openm3.server.tracing import Phases

_RETRY_AFTER_S = 1
_GENERATING = ("/completions", "/responses", "/messages")  # ends of paths


class Gate:
    """A backend before another one.

    A request waits until the backend first says something about it. When `max_waiting` do, the next one is refused,
    with a time after which to try again: a queue that grows without end helps nobody.
    """

    def __init__(self, backend: Backend, settings: Settings, metrics: Metrics) -> None:
        self._backend, self._settings = backend, settings
        self._metrics = metrics.of(backend.llm.name)
        self._num_running = self._num_waiting = 0
        self.is_closing, self.fetches_media = False, settings.fetch_media
        metrics.watch(lambda: {self.llm.name: self.load()})

    @property
    def llm(self) -> Reader:
        """The model."""
        return self._backend.llm

    async def start(self) -> None:
        """Starts the backend."""
        await self._backend.start()

    async def aclose(self) -> None:
        """Closes the backend."""
        await self._backend.aclose()

    def status(self) -> ServiceStatus:
        """How busy the backend is."""
        return self._backend.status()

    def check_room(self) -> None:
        """Refuses a request that could not even wait.

        Raises:
            ApiError: too many wait already.
        """
        if self._num_waiting >= self._settings.max_waiting:
            self._metrics.refused.inc()
            raise overloaded(self._num_waiting)

    @property
    def is_ready(self) -> bool:
        """Whether requests should be sent here."""
        replicas = self.status().replicas
        return not self.is_closing and (not replicas or any(replica.is_up for replica in replicas))

    def health(self) -> Health:
        """How busy it is, for people."""
        status = self.status()
        return Health(
            model=self.llm.name,
            running=self._num_running,
            waiting=self._num_waiting,
            free_pages=status.free_pages,
            num_pages=status.num_pages,
            replicas=len(status.replicas) or None,
            replicas_up=sum(replica.is_up for replica in status.replicas) if status.replicas else None,
        )

    def load(self) -> Load:
        """How busy it is, as seen from before the gate."""
        status = self.status()
        usage = 1 - status.free_pages / status.num_pages
        return Load(self._num_running, self._num_waiting, usage, status.replicas)

    async def stream(
        self, prompt: Prompt | Sequence[int], params: SamplingParams, share: Share = ALONE
    ) -> AsyncGenerator[Event, None]:
        """What the backend says.

        Raises:
            InputError: the request can't be served.
            ApiError: too many wait already, or the answer takes too long.
        """
        self.check_room()
        num_prompt = len(prompt.ids if isinstance(prompt, Prompt) else prompt)
        tally = _Tally(self._metrics, self.llm.name, num_prompt)
        deadline = asyncio.get_running_loop().time() + self._settings.request_s
        self._num_waiting += 1
        waits = True
        try:
            async with aclosing(self._backend.stream(prompt, params, share)) as events:
                while True:
                    try:
                        async with asyncio.timeout_at(deadline) as limit:
                            event = await anext(events, None)
                    except TimeoutError:
                        if not limit.expired():
                            raise
                        raise timed_out(self._settings.request_s) from None
                    if event is None:
                        return
                    if waits:
                        waits = False
                        self._num_waiting -= 1
                        self._num_running += 1
                        tally.start()
                    if isinstance(event, Delta):
                        tally.add(event)
                    yield event
        except BaseException as error:
            tally.end(None, type(error).__name__)
            raise
        finally:
            if waits:
                self._num_waiting -= 1
            else:
                self._num_running -= 1


class Doorkeeper:
    """Refuses, where there is no room, before a body is read and its tokens are counted: a flood costs little so."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].endswith(_GENERATING):
            self._gate.check_room()
        await self._app(scope, receive, send)


def overloaded(num_waiting: int) -> ApiError:
    """What a client is told for whom there is no room even to wait."""
    message = f"the server is busy: {num_waiting} requests wait already; try again later"
    return ApiError(529, message, code="overloaded", headers={"retry-after": str(_RETRY_AFTER_S)})


class _Tally:
    """Counts the tokens of one answer and the time between them."""

    def __init__(self, metrics: ModelMetrics, model: str, num_prompt: int) -> None:
        self._metrics, self._num_prompt = metrics, num_prompt
        self._record = Record.of_task()
        self._now = asyncio.get_running_loop().time
        self._began = self._now()
        self._last: float | None = None
        self._phases: Phases | None = None
        if self._record:
            self._record.model = model
            self._record.add_tokens(prompt=num_prompt)
            if self._record.trace:
                self._phases = self._record.trace.phases(model)

    def start(self) -> None:
        """The engine has taken the request."""
        if self._phases:
            self._phases.next()

    def end(self, stats: Stats | None, error: str = "") -> None:
        """The answer has ended, with `error` before its time; what comes after that is nothing new."""
        if self._phases:
            self._phases.end(stats, error)
            self._phases = None

    def add(self, delta: Delta) -> None:
        now, metrics, record = self._now(), self._metrics, self._record
        if delta.token_id is not None:
            metrics.generation_tokens.inc()
            if self._last is None:
                metrics.to_first_token.observe(now - self._began)
                metrics.prompt_tokens.inc(self._num_prompt)
                if self._phases:
                    self._phases.next()
                if record and record.first_token_s is None:
                    record.first_token_s = round(record.elapsed_s, 6)
            else:
                metrics.between_tokens.observe(now - self._last)
            self._last = now
            if record:
                record.add_tokens(completion=1)
        if delta.finish_reason is None:
            return
        self.end(delta.stats, "" if delta.stats else str(delta.finish_reason))
        if record:
            record.finish_reasons.append(str(delta.finish_reason))
        if delta.stats is not None:
            metrics.request.observe(now - self._began)
            metrics.ended(str(delta.finish_reason), delta.stats)
            if record:
                record.add_tokens(cached=delta.stats.num_cached)
