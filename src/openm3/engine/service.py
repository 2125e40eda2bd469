"""`Service`: an engine in a thread of its own, for asyncio callers."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from openm3.engine.fairness import ALONE, Share
from openm3.engine.llm import LLM
from openm3.engine.output import Delta, Event, FinishReason
from openm3.engine.params import SamplingParams
from openm3.engine.prompt import Prompt
from openm3.engine.request import Request

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReplicaStatus:
    """How one of several engines does.

    Attributes:
        name: its number.
        running: requests that it has now.
        num_served: those that it was given so far.
        num_prompt, num_known: tokens of their prompts, and those of them that it had been given before.
        num_failed: how often it was lost.
    """

    name: str
    is_up: bool
    running: int
    num_served: int
    num_prompt: int
    num_known: int
    num_failed: int


@dataclass(frozen=True)
class ServiceStatus:
    """How busy the engine is; `replicas` is empty where there is only one."""

    running: int
    waiting: int
    free_pages: int
    num_pages: int
    replicas: tuple[ReplicaStatus, ...] = ()


class _Stream:
    """One caller's end: events arrive from the engine's thread."""

    def __init__(self, prompt: Prompt | Sequence[int], params: SamplingParams, share: Share) -> None:
        self.prompt, self.params, self.share = prompt, params, share
        self.request: Request | None = None
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()

    def send(self, event: Event | Exception) -> None:
        """Called in the engine's thread; the caller's loop may be gone already."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:
            log.debug("a caller's event loop closed before its answer ended")

    async def receive(self) -> Event:
        event = await self._events.get()
        if isinstance(event, Exception):
            raise event
        return event


class Service:
    """Runs an `LLM`'s engine for many asyncio callers at once.

    All work on the engine happens in one thread: callers post commands to it, and it posts events back.

    Args:
        llm: the model; nobody else may use it while the service runs.
    """

    def __init__(self, llm: LLM) -> None:
        self.llm = llm
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._streams: dict[str, _Stream] = {}  # by request id; touched in the engine's thread alone
        self._thread: threading.Thread | None = None
        self._closing = False  # set by the callers' side: nothing new is taken
        self._stopped = False  # set in the engine's thread: it ends

    async def start(self) -> None:
        """Starts the engine's thread."""
        self._closing = self._stopped = False
        self._thread = threading.Thread(target=self._work, name="openm3-engine", daemon=True)
        self._thread.start()

    async def aclose(self) -> None:
        """Cancels what runs and ends the thread; the streams end with finish reason "cancelled"."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._closing = True
            self._commands.put(self._close)  # behind every request that was taken, so each of them gets its end
            await asyncio.to_thread(thread.join)

    def status(self) -> ServiceStatus:
        """A glance from outside the thread: each number is right, all together may be a step apart."""
        scheduler = self.llm.engine.scheduler
        return ServiceStatus(
            len(scheduler.running), len(scheduler.waiting), scheduler.pool.num_free, scheduler.pool.num_pages
        )

    async def stream(
        self, prompt: Prompt | Sequence[int], params: SamplingParams, share: Share = ALONE
    ) -> AsyncGenerator[Event, None]:
        """Progress through the prompt, then the answer piece by piece; the last delta has a finish reason.

        Closing the generator cancels the request and frees its pages.

        Raises:
            InputError: the request can't be served.
            RuntimeError: the service does not run, or the engine failed.
        """
        if self._thread is None or self._closing:
            raise RuntimeError("the service is not running")
        stream = _Stream(prompt, params, share)
        self._commands.put(lambda: self._add(stream))
        try:
            while True:
                event = await stream.receive()
                yield event
                if isinstance(event, Delta) and event.finish_reason is not None:
                    return
        finally:
            self._commands.put(lambda: self._cancel(stream))

    # What follows runs in the engine's thread.

    def _work(self) -> None:
        while not self._stopped:
            idle = not self._streams
            self._obey(wait=idle)
            try:
                events = self.llm.engine.step()
            except Exception as error:
                log.exception("the engine failed; every running request ends with an error")
                self._fail_all(error)
                continue
            for event in events:
                stream = self._streams[event.request_id]
                stream.send(event)
                if isinstance(event, Delta) and event.finish_reason is not None:
                    del self._streams[event.request_id]

    def _obey(self, *, wait: bool) -> None:
        """Carries out the commands that have come; waits for the first one when there is nothing to compute."""
        try:
            while True:
                self._commands.get(block=wait)()
                wait = False
        except queue.Empty:
            pass

    def _add(self, stream: _Stream) -> None:
        try:
            stream.request = self.llm.engine.add(stream.prompt, stream.params, stream.share)
        except Exception as error:
            stream.send(error)
        else:
            self._streams[stream.request.request_id] = stream

    def _cancel(self, stream: _Stream) -> None:
        if stream.request is not None and stream.request.request_id in self._streams:
            del self._streams[stream.request.request_id]
            self.llm.engine.cancel(stream.request)

    def _close(self) -> None:
        self._stopped = True
        for stream in list(self._streams.values()):
            self._cancel(stream)
            assert stream.request is not None
            stream.send(Delta(stream.request.request_id, "", finish_reason=FinishReason.CANCELLED))

    def _fail_all(self, error: Exception) -> None:
        for stream in list(self._streams.values()):
            self._cancel(stream)
            stream.send(RuntimeError(f"the engine failed: {error}"))
