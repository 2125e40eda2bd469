from __future__ import annotations

import asyncio
import importlib.metadata
from pathlib import Path

import pytest

from helpers.clock import Clock
from helpers.steps import work
from minimax_code.errors import LeaseError, ModelError
from minimax_code.events import Log, TaskEnded, Told, ToolEnded, ToolIntended, WorkerStarted, WorkerStopped
from minimax_code.jobs.worker import Assignment, work_on
from minimax_code.model import ToolCall
from minimax_code.store import Store

pytestmark = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


@pytest.fixture
def effects(tmp_path: Path) -> Path:
    return tmp_path / "effects"


def kinds(store: Store, job: str) -> list[str]:
    return [type(one.event).__name__ for one in store.events(job)]


def test_a_job_from_its_beginning_to_its_end(store: Store, effects: Path) -> None:
    lease = store.lease(store.create({}), "w", 10)
    asyncio.run(work_on(store, lease, work(effects, 2)))
    step = ["ToolIntended", "ToolEnded"]
    assert kinds(store, lease.job) == ["WorkerStarted", *step, *step, "TaskEnded"]
    assert effects.read_text() == "0\n1\n"
    row = store.job(lease.job)
    assert (row.state, row.leased) == ("passed", False)


def test_a_pause_waits_for_the_end_of_a_step(store: Store, effects: Path) -> None:
    job = store.create({})

    async def during(i: int) -> None:
        if i == 1:
            store.wish(job, "pause")

    asyncio.run(work_on(store, store.lease(job, "w", 10), work(effects, 4, during)))
    assert store.job(job).state == "paused"
    assert kinds(store, job)[-3:] == ["ToolIntended", "ToolEnded", "WorkerStopped"]
    store.wish(job, "run")
    asyncio.run(work_on(store, store.lease(job, "w", 10), work(effects, 4)))
    assert store.job(job).state == "passed"
    assert effects.read_text() == "0\n1\n2\n3\n"


def test_a_pause_lets_every_agent_end_its_step(store: Store) -> None:
    """One is in the middle of a step, one would begin another; a user who has second thoughts comes too late."""
    job = store.create({})
    begun = asyncio.Event()

    async def agents(assignment: Assignment, log: Log) -> None:
        async def slow() -> None:
            await log.append(ToolIntended(agent="slow", call=ToolCall(id="1", name="x"), tree=""))
            store.wish(job, "pause")
            begun.set()
            await asyncio.sleep(0.05)
            store.wish(job, "run")
            await log.append(ToolEnded(agent="slow", call_id="1", output="", failed=False, tree="t", seconds=0))
            raise AssertionError("never reached")

        async def eager() -> None:
            await begun.wait()
            await log.append(Told(agent="eager", text="something"))
            await log.append(ToolIntended(agent="eager", call=ToolCall(id="1", name="x"), tree=""))
            raise AssertionError("never reached")

        await asyncio.gather(slow(), eager())

    asyncio.run(asyncio.wait_for(work_on(store, store.lease(job, "w", 10), agents), 60))
    assert [type(one.event) for one in store.events(job)][-2:] == [ToolEnded, WorkerStopped]
    assert store.job(job).state == "crashed_resumable", "it can be taken again at once"
    assert store.lease_next("w", 10)


def test_cancelling_cuts_a_step_short(store: Store, effects: Path) -> None:
    job = store.create({})

    async def during(i: int) -> None:
        store.wish(job, "cancel")
        await asyncio.sleep(60)

    asyncio.run(asyncio.wait_for(work_on(store, store.lease(job, "w", 0.1), work(effects, 4, during)), 60))
    assert store.job(job).state == "cancelled"
    assert store.job(job).outcome == "cancelled"
    assert kinds(store, job) == ["WorkerStarted", "ToolIntended", "WorkerStopped"]


def test_work_that_fails_can_be_resumed(store: Store, effects: Path) -> None:
    job = store.create({})

    async def during(i: int) -> None:
        raise ModelError("the model at http://x is gone")

    with pytest.raises(ModelError):
        asyncio.run(work_on(store, store.lease(job, "w", 10), work(effects, 2, during)))
    stopped = store.events(job)[-1].event
    assert stopped == WorkerStopped(reason="failed", message="the model at http://x is gone")
    assert store.job(job).state == "crashed_resumable"
    asyncio.run(work_on(store, store.lease(job, "w", 10), work(effects, 2)))
    assert store.job(job).state == "passed"
    assert effects.read_text() == "0\n1\n", "the step that failed in its middle was not repeated"


def test_a_worker_that_is_told_to_end(store: Store, effects: Path) -> None:
    job = store.create({})

    async def ended_from_outside() -> None:
        began = asyncio.Event()

        async def during(i: int) -> None:
            began.set()
            await asyncio.sleep(60)

        worker = asyncio.create_task(work_on(store, store.lease(job, "w", 10), work(effects, 2, during)))
        await began.wait()
        worker.cancel()
        await worker

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(ended_from_outside())
    assert store.events(job)[-1].event == WorkerStopped(reason="stopped")
    assert not store.job(job).leased


def test_a_worker_whose_job_was_taken_lets_go_of_it(store: Store, effects: Path, clock: Clock) -> None:
    """Even if its step writes nothing."""
    job = store.create({})

    async def during(i: int) -> None:
        clock.now += 60
        store.lease(job, "other", 1000)
        await asyncio.sleep(60)

    with pytest.raises(LeaseError, match="was taken by another worker"):
        asyncio.run(work_on(store, store.lease(job, "w", 0.1), work(effects, 2, during)))
    assert kinds(store, job) == ["WorkerStarted", "ToolIntended"]
    assert store.job(job).leased, "the other's"


def test_nothing_follows_the_end(store: Store, effects: Path) -> None:
    """The process is told to end when the last event is written and the work hasn't returned yet."""
    job = store.create({})

    async def ended_from_outside() -> None:
        ended = asyncio.Event()

        async def agents(assignment: Assignment, log: Log) -> None:
            await work(effects, 1)(assignment, log)
            ended.set()
            await asyncio.sleep(60)

        worker = asyncio.create_task(work_on(store, store.lease(job, "w", 10), agents))
        await ended.wait()
        worker.cancel()
        await worker

    asyncio.run(ended_from_outside())
    assert store.job(job).state == "passed"
    assert isinstance(store.events(job)[-1].event, TaskEnded)


def test_the_events_say_which_version_worked(store: Store, effects: Path) -> None:
    job = store.create({})
    asyncio.run(work_on(store, store.lease(job, "w", 10), work(effects, 0)))
    started = store.events(job)[0].event
    assert isinstance(started, WorkerStarted)
    assert (started.worker, started.token, started.version) == ("w", 1, importlib.metadata.version("openm3"))
