"""Days of work in seconds: the clocks are the test's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from helpers.memoryless import USAGE, MemorylessModel
from minimax_code.events import CheckpointReached, WorkerStarted, WorkerStopped
from minimax_code.jobs import Job, JobSpec
from minimax_code.jobs.clock import Clock
from minimax_code.jobs.status import Standing
from minimax_code.jobs.task import do_task
from minimax_code.jobs.worker import work_on
from minimax_code.model import Reply, Request, ToolCall
from minimax_code.store import Store
from minimax_code.work.task import Task

HOUR, DAY = 3600.0, 86_400.0


class Times:
    """Both clocks."""

    def __init__(self) -> None:
        self.now, self.monotonic = 1_772_366_400.0, 5_000.0

    def go_on(self, seconds: float) -> None:
        self.now += seconds
        self.monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Somebody sets the clock on the wall."""
        self.now += seconds


class Tireless(MemorylessModel):
    """Never comes to an end: a file changes with each reply, of which each takes two hours.

    Args:
        at: what happens during which reply.
    """

    def __init__(self, times: Times, at: Mapping[int, Callable[[], object]]) -> None:
        self._times, self._at, self._num_replies = times, at, 0

    async def reply(self, request: Request) -> Reply:
        self._times.go_on(2 * HOUR)
        self._num_replies += 1
        if self._num_replies in self._at:
            self._at[self._num_replies]()
            await asyncio.sleep(0)
        if not any(tool.name == "write" for tool in request.tools):
            return await super().reply(request)
        text = json.dumps({"path": "notes.txt", "content": f"{self._times.monotonic}\n"})
        call = ToolCall(id=f"call-{self._times.monotonic}", name="write", arguments=text)
        return Reply(calls=(call,), finish_reason="tool_calls", usage=USAGE)


def test_five_days_with_a_checkpoint_every_six_hours(tmp_path: Path) -> None:
    """The machine is off for a week, and its clock is set forward by a year and back by two: five days stay five."""
    times = Times()
    store = Store(str(tmp_path / "jobs.db"), now=lambda: times.now)
    clock = Clock(now=lambda: times.now, monotonic=lambda: times.monotonic)
    task = Task(
        description="Never end", checks=["test -f notes.txt"], max_duration_days=5, checkpoint_frequency_hours=6
    )
    job = store.create(JobSpec.of(task).model_dump(mode="json"))

    async def go_on(at: Mapping[int, Callable[[], object]]) -> None:
        work = partial(do_task, root=tmp_path / "jobs", model=Tireless(times, at))
        await work_on(store, store.lease(job, "w", 30), work, clock=clock)

    async def begin() -> None:
        worker = asyncio.current_task()
        assert worker
        jumps = {8: partial(times.jump, 365 * DAY), 14: partial(times.jump, -730 * DAY)}
        await go_on(jumps | {20: worker.cancel})

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(begin())
    assert store.job(job).worked_s == 40 * HOUR
    times.jump(7 * DAY)
    times.monotonic = 3.0  # it begins anew with the machine
    asyncio.run(go_on({}))

    result, events = Job(store, job).get_results(), [one.event for one in store.events(job)]
    assert result.state == "budget"
    assert 120 * HOUR <= store.job(job).worked_s <= 126 * HOUR, "a step that has begun is ended"
    workers = [type(event) for event in events if isinstance(event, WorkerStarted | WorkerStopped)]
    assert workers == [WorkerStarted, WorkerStopped, WorkerStarted]
    hours = [event.hours for event in events if isinstance(event, CheckpointReached)]
    assert hours[0] == 6
    assert all(6 <= later - earlier <= 8 for earlier, later in pairwise(hours))
    assert hours[-1] >= 112
    told = [update.message for update in Standing(job).read(store.events(job))]
    assert sum(message.startswith("checkpoint after") for message in told) == len(hours)
    store.close()
