"""Errands for workers on many machines, who lease them from a store. Nobody who was frozen can write anything late."""

from __future__ import annotations

import asyncio
import os
from functools import partial

from minimax_code.clusters.errand import MOST_LOST, Errand, Outcome, Work, attempt
from minimax_code.errors import LeaseError
from minimax_code.events import Log, TaskEnded, WorkerStarted, WorkerStopped
from minimax_code.jobs.worker import LEASE_S, Assignment, work_on
from minimax_code.store import Store

QUEUE = "errands"
"""The store's queue of errands."""

_IDLE_S = 0.5  # between two looks of a worker that has nothing to do
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.05, 2.0  # between looks at an errand: those that take long are looked at seldom


class WorkersExecutor:
    """Puts errands into a store, and waits for a worker to bring them to an end.

    Args:
        run: the job of the cluster's run. If its user cancels it, so are its errands; they go on in all other cases.
    """

    name, goes_on = "workers", True

    def __init__(self, store: Store, run: str) -> None:
        self._store, self._run = store, run

    async def run(self, errand: Errand, work: Work) -> Outcome:
        """As of `Executor`; how it is done is the workers' own choice."""
        spec = errand.model_dump(mode="json")
        job, pause = errand.id, _FIRST_LOOK_S
        try:
            await asyncio.to_thread(partial(self._store.create, spec, queue=QUEUE, job=job))
            while not (row := await asyncio.to_thread(self._store.job, job)).has_ended:
                await asyncio.sleep(pause)
                pause = min(1.2 * pause, _LONGEST_LOOK_S)
        except asyncio.CancelledError:
            if self._store.job(self._run).wish == "cancel":
                self._store.wish(job, "cancel")
            raise
        if row.state == "cancelled":
            return Outcome(success=False, cause=f"{job} was cancelled")
        last = (await asyncio.to_thread(self._store.events, job, row.seq - 1))[-1].event
        assert isinstance(last, TaskEnded)
        return Outcome.model_validate(last.result)

    async def close(self) -> None:
        """Nothing is held."""


async def work_off(store: Store, work: Work, *, owner: str = "", at_once: int = 1, lease_s: float = LEASE_S) -> None:
    """Takes errands from a store, and does them until it is cancelled. What it hasn't ended then others take.

    Args:
        owner: the worker's name; else machine and process.
        at_once: how many errands.

    Raises:
        StoreError: the store can't be read or written.
    """
    owner = owner or f"{os.uname().nodename}-{os.getpid()}"
    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(_work_off(store, work, owner, lease_s))


async def _work_off(store: Store, work: Work, owner: str, lease_s: float) -> None:
    while True:
        lease = await asyncio.to_thread(partial(store.lease_next, owner, lease_s, queue=QUEUE))
        if lease is None:
            await asyncio.sleep(_IDLE_S)
            continue
        try:
            await work_on(store, lease, partial(_do, work=work))
        except LeaseError:  # somebody else has it by now: what this worker has made of it counts for nothing
            continue


async def _do(assignment: Assignment, log: Log, *, work: Work) -> None:
    errand = Errand.model_validate(assignment.spec, strict=False)
    lost = _lost(log)
    causes = tuple(f"the worker {name} was lost, and what had come of it is not known" for name in lost)
    if len(lost) >= MOST_LOST:
        outcome = Outcome(success=False, cause=f"{len(lost)} workers were lost over it: {', '.join(lost)}")
    else:
        outcome = await attempt(work, errand.model_copy(update={"causes": errand.causes + causes}))
    state = "passed" if outcome.success else "failed"
    await log.append(TaskEnded(result={"state": state, **outcome.model_dump(mode="json")}))


def _lost(log: Log) -> list[str]:
    """Workers who began with it and neither ended it nor said that they let go of it."""
    lost: list[str] = []
    for event in (one.event for one in log.recorded):
        if isinstance(event, WorkerStarted):
            lost.append(event.worker)
        elif isinstance(event, WorkerStopped):
            lost.pop()
    return lost[:-1]  # the last one is this one
