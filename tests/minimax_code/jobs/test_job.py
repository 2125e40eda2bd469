from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from helpers.clock import Clock
from minimax_code import events as e
from minimax_code.contract import Check, Contract, Verdict
from minimax_code.errors import InputError, StoreError
from minimax_code.jobs import Job, Update, teller
from minimax_code.model import Reply, Usage
from minimax_code.store import Lease, Store
from minimax_code.work.result import TaskResult

pytestmark = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)

CHECK = Check(command=("pytest",))
RESULT = TaskResult(state="failed", tree="t9", issues=("one test is red",))
EVENTS = [
    e.WorkerStarted(worker="a", token=1, version="1"),
    e.TaskBegan(task={"description": "x"}, base="t0"),
    e.ContractFrozen(contract=Contract(checks=(CHECK,))),
    e.PlanChanged(agent="worker", steps=(e.Step(text="one", state="done"), e.Step(text="two"))),
    e.ModelReplied(agent="worker", reply=Reply(content="All done!", usage=Usage(prompt_tokens=7, completion_tokens=2))),
    e.ToolEnded(agent="worker", call_id="1", output="", failed=False, tree="t1", seconds=1),
    e.CheckpointReached(hours=6.02, tree="t1"),
    e.WorkerStarted(worker="b", token=2, version="1"),
    e.StuckSeen(agent="worker", rule="the same call three times", advice="look elsewhere"),
    e.WorkerStopped(reason="failed", message="the model is gone"),
    e.WorkerStarted(worker="c", token=3, version="1"),
]
END = [
    e.AgentStopped(agent="worker", reason="finished", message="It works perfectly."),
    e.Verified(verdict=Verdict(outcome="FAIL", tree="t1", evidence=("a.py:3 divides by zero",))),
    e.TaskEnded(result=RESULT.model_dump(mode="json")),
]


def write(store: Store, lease: Lease, events: list[Any]) -> None:
    log = store.log(lease.job, lease)
    for event in events:
        asyncio.run(log.append(event) if event is not END[-1] else log.end(event, "failed"))


@pytest.fixture
def lease(store: Store) -> Lease:
    return store.lease(store.create({"task": {}}), "c", 10)


def test_a_status_is_what_the_events_say(store: Store, lease: Lease) -> None:
    job = Job(store, lease.job)
    assert (job.get_status().current_phase, job.get_status().progress, job.get_status().issues) == ("begin", 0, ())
    write(store, lease, EVENTS)
    store.renew(lease, worked_s=90)
    status = job.get_status()
    assert (status.state, status.current_phase, status.progress) == ("running", "work", 47.5)
    assert (status.tasks_completed, status.tasks_total) == (1, 2)
    assert status.issues == ("a was lost; b went on after event 7", "the same call three times", "the model is gone")
    assert (status.tree, status.model_calls, status.tokens) == ("t1", 1, 9)
    assert status.worked == timedelta(seconds=90)
    assert status.updated_at == store.events(lease.job)[-1].at
    assert not job.is_complete


def test_a_worker_that_is_gone_is_an_issue(store: Store, lease: Lease, clock: Clock) -> None:
    write(store, lease, EVENTS)
    clock.now += 11
    status = Job(store, lease.job).get_status()
    assert status.state == "crashed_resumable"
    assert status.issues[-1] == f"c is gone; `minimax-code jobs resume {lease.job}` goes on"


def test_results(store: Store, lease: Lease) -> None:
    write(store, lease, EVENTS)
    job = Job(store, lease.job)
    with pytest.raises(StoreError, match=r"job-\w+ is running: it has no result"):
        job.get_results()
    write(store, lease, END)
    assert job.is_complete
    assert job.get_results() == RESULT
    assert job.get_status().progress == 100
    assert "a.py:3 divides by zero" in job.get_status().issues
    job.cancel()  # too late, and no harm
    with pytest.raises(StoreError, match=r"job-\w+ is failed: it can't be changed any more"):
        job.pause()


def test_a_job_that_nobody_works_on_is_cancelled_at_once(store: Store) -> None:
    job = Job(store, store.create({"task": {}}))
    job.pause()
    assert job.get_status().state == "paused"
    job.cancel()
    assert job.is_complete
    with pytest.raises(StoreError, match="is cancelled: it has no result"):
        job.get_results()
    with pytest.raises(StoreError, match="can't be changed any more"):
        job.resume()


def test_a_job_that_is_no_task(store: Store) -> None:
    """A cluster's: it can be looked at, paused and cancelled like any other."""
    lease = store.lease(store.create({"subtasks": []}), "a", 10)
    job = Job(store, lease.job)
    job.pause()
    with pytest.raises(StoreError, match=r"job-\w+ is no task; the program that started it resumes it"):
        job.resume()
    asyncio.run(store.log(lease.job, lease).end(e.TaskEnded(result={"state": "passed", "text": "x"}), "passed"))
    assert (job.get_status().state, job.get_status().current_phase) == ("passed", "ended")
    assert not job.has_result
    with pytest.raises(StoreError, match="is passed: it has no result"):
        job.get_results()


def test_an_unknown_job(store: Store) -> None:
    with pytest.raises(InputError, match="there is no job-0"):
        Job(store, "job-0")


class Told:
    """What a callback was called with."""

    def __init__(self, failing: Callable[[Update], bool] = lambda update: False) -> None:
        self.updates: list[Update] = []
        self._failing = failing
        self._changed = threading.Condition()

    def __call__(self, update: Update) -> None:
        with self._changed:
            self.updates.append(update)
            self._changed.notify_all()
        if self._failing(update):
            raise ValueError("the callback's own mistake")

    def wait_for(self, count: int) -> list[Update]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.updates) >= count, 60), self.updates
        return self.updates


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teller, "POLL_S", 0.01)


def test_a_callback_is_told_of_everything_in_order(store: Store, lease: Lease) -> None:
    told = Told()
    job = Job(store, lease.job, notification_callback=told)
    write(store, lease, EVENTS)
    assert [update.message for update in told.wait_for(8)] == [
        "a worker has begun",
        "1 checks are set, by the user",
        "1 of 2 steps are done",
        "checkpoint after 6.0 hours of work, files t1",
        "a worker goes on with it",
        "stuck: the same call three times",
        "interrupted: the model is gone",
        "a worker goes on with it",
    ]
    fourth = told.updates[3]
    assert (fourth.event_id, fourth.phase, fourth.progress) == (f"{lease.job}/7", "work", 47.5)
    assert fourth.timestamp == store.events(lease.job)[6].at
    write(store, lease, END)
    job.get_results()
    assert told.updates[-1].message == "ended: failed"
    assert len(told.updates) == 10


def test_a_callback_that_fails_is_called_again(store: Store, lease: Lease) -> None:
    failures = iter([False, True, True])
    told = Told(lambda update: next(failures, False))
    Job(store, lease.job, notification_callback=told)
    write(store, lease, [*EVENTS, *END])
    seqs = [int(update.event_id.split("/")[1]) for update in told.wait_for(12)]
    assert seqs == [1, 3, 3, 3, 4, 7, 8, 9, 10, 11, 13, 14]


def test_another_process_goes_on_where_the_callback_was(store: Store, lease: Lease) -> None:
    write(store, lease, EVENTS)
    store.told(lease.job, 9)
    told = Told()
    Job(store, lease.job, notification_callback=told)
    write(store, lease, END)
    assert [update.event_id.split("/")[1] for update in told.wait_for(4)] == ["10", "11", "13", "14"]
