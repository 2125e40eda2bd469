"""Works on a job: for as long as it holds the lease, and until the work ends or the user wants it otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from minimax_code.errors import CodeError, LeaseError, ModelError, StoreError
from minimax_code.events import Log, TaskEnded, WorkerStarted, WorkerStopped
from minimax_code.jobs.clock import Clock
from minimax_code.jobs.gate import GatedLog
from minimax_code.store import Lease, Packs, Store, StoredLog
from minimax_code.store.threads import in_thread

LEASE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a worker has to do.

    Attributes:
        owner: the worker's name, which it keeps for as long as it is started again in its own place.
        spec: of the job.
        worked_s: for how many seconds the job has been worked on before.
        packs: the job's files, in a store that machines share.
    """

    job: str
    owner: str
    spec: Mapping[str, Any]
    worked_s: float
    clock: Clock
    packs: Packs | None = None


Work = Callable[[Assignment, Log], Awaitable[object]]
"""What is done: it goes on from what the log says, and its last event is a `TaskEnded`."""


async def work_on(store: Store, lease: Lease, work: Work, *, clock: Clock | None = None) -> None:
    """Does the work of a job until it ends, or is paused or cancelled; then gives the lease back.

    Raises:
        LeaseError: another worker has taken the job, after this one was frozen or cut off.
        CodeError: what ended the work. The job is paused, but for a model or a store that may be there again soon.
    """
    worker = _Worker(store, lease, clock or Clock())
    try:
        await worker.run(work)
    finally:
        await worker.release()


class _Worker:
    def __init__(self, store: Store, lease: Lease, clock: Clock) -> None:
        self._store, self._lease, self._clock = store, lease, clock
        self._row = store.job(lease.job)
        self._log: StoredLog = store.log(lease.job, lease)
        self._packs = store.packs(lease)
        self._began = self._counted = clock.monotonic()
        self._task: asyncio.Future[object] | None = None
        self._cause: Literal["paused", "cancelled", "lost"] | None = None  # why the work was cut short

    async def run(self, work: Work) -> None:
        await self._log.append(self._start())
        row, hours = self._row, self._row.spec.get("checkpoint_hours")
        assignment = Assignment(
            job=row.id,
            owner=self._lease.owner,
            spec=row.spec,
            worked_s=row.worked_s,
            clock=self._clock,
            packs=self._packs,
        )
        gate = GatedLog(self._log, hours=hours, worked_s=self._worked_s, stop=self._cut)
        self._task = asyncio.ensure_future(work(assignment, gate))
        beat = asyncio.create_task(self._keep_lease())
        try:
            await self._task
        except asyncio.CancelledError:
            await self._end_work()
            if not isinstance(self._log.recorded[-1].event, TaskEnded):
                await self._tell_why()
        except StoreError:
            raise  # what can't be written can't be told either
        except Exception as error:
            told = str(error) if isinstance(error, CodeError) else f"{type(error).__name__}: {error}"
            await self._log.append(WorkerStopped(reason="failed", message=told))
            if isinstance(error, CodeError) and not isinstance(error, ModelError):  # trying again would change nothing
                await in_thread(self._store.wish, self._lease.job, "pause")
            raise
        finally:
            beat.cancel()
            await asyncio.wait([beat])

    async def release(self) -> None:
        with contextlib.suppress(StoreError):  # it runs out by itself
            await in_thread(self._store.release, self._lease, self._clock.monotonic() - self._counted)

    def _start(self) -> WorkerStarted:
        version = importlib.metadata.version("openm3")
        return WorkerStarted(worker=self._lease.owner, token=self._lease.token, version=version)

    def _worked_s(self) -> float:
        return self._row.worked_s + self._clock.monotonic() - self._began

    def _cut(self, *, lost: bool = False) -> None:
        self._cause = self._cause or ("lost" if lost else "cancelled" if self._log.wish == "cancel" else "paused")
        if self._task:
            self._task.cancel()

    async def _end_work(self) -> None:
        assert self._task
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _tell_why(self) -> None:
        match self._cause:
            case "lost":
                raise LeaseError(f"{self._lease.job} was taken by another worker: this one lets go of it")
            case "cancelled":
                await self._log.end(WorkerStopped(reason="cancelled"), "cancelled")
                if self._packs:
                    await self._packs.clear()
            case "paused":
                await self._log.append(WorkerStopped(reason="paused"))
            case None:  # this process is to end
                await self._log.append(WorkerStopped(reason="stopped"))
                raise asyncio.CancelledError

    async def _keep_lease(self) -> None:
        """Renews the lease in time, and cuts the work short if it is lost or the user wants the job cancelled."""
        while True:
            await asyncio.sleep(self._lease.seconds / 3)
            now = self._clock.monotonic()
            try:
                self._log.wish = await in_thread(self._store.renew, self._lease, now - self._counted)
            except LeaseError:
                return self._cut(lost=True)
            except StoreError:  # the next event says so too, and louder
                continue
            self._counted = now
            if self._log.wish == "cancel":
                return self._cut()
