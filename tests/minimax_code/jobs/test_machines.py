"""Jobs that change machines: each has a folder of its own, and all that they share is the store."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Generator
from functools import partial
from pathlib import Path

import pytest

from helpers.live_server import eventually
from helpers.memoryless import MemorylessModel
from minimax_code.errors import CodeError, LeaseError, ModelError, WorkspaceError
from minimax_code.jobs import Job, JobSpec, carried
from minimax_code.jobs.task import do_task
from minimax_code.jobs.worker import work_on
from minimax_code.model import Reply, Request
from minimax_code.store import Lease, Store
from minimax_code.testing import ModelServer
from minimax_code.work.task import Task


class LeavingModel(MemorylessModel):
    """Is gone after some answers."""

    def __init__(self, answers: int) -> None:
        self.left = answers

    async def reply(self, request: Request) -> Reply:
        if not self.left:
            raise ModelError("the model is gone")
        self.left -= 1
        return await super().reply(request)


class Machines:
    """A job, and folders that stand for machines.

    Attributes:
        folder: of the machines; the user's files are in `source` there, until a machine has begun with them.
    """

    def __init__(self, folder: Path, store_url: str) -> None:
        (source := folder / "source").mkdir()
        (source / "notes.txt").write_text("one\n")
        self.folder, self.store = folder, Store(store_url)
        task = Task(description="Write notes", checks=["grep -qx two notes.txt"])
        self.job = self.store.create(JobSpec.of(task, folder=str(source)).model_dump(mode="json"))

    def work(self, machine: str, answers: int) -> None:
        """Works on the job until the model is gone."""
        work = partial(do_task, root=self.folder / machine / "jobs", model=LeavingModel(answers))
        self.store.wish(self.job, "run")
        asyncio.run(work_on(self.store, self.store.lease(self.job, f"worker-{machine}", 10), work))

    def begin(self, machine: str, answers: int) -> None:
        """The first one, whose model is gone before the end."""
        with pytest.raises(ModelError):
            self.work(machine, answers)
        shutil.rmtree(self.folder / "source")

    def refusal(self, machine: str) -> CodeError:
        with pytest.raises(WorkspaceError) as refused:
            self.work(machine, 9)
        return refused.value

    def check(self) -> None:
        result = Job(self.store, self.job).get_results()
        assert (result.success, result.files_changed) == (True, ("notes.txt",)), result
        assert result.diff.endswith("\n one\n+two\n"), "the command that adds a line counts once"
        packs = self.store.packs(Lease(job=self.job, owner="", token=0, seconds=0))
        assert not packs or not packs.sizes, "what nobody will go on with isn't kept"


@pytest.fixture
def machines(tmp_path: Path, store_url: str) -> Generator[Machines, None, None]:
    machines = Machines(tmp_path, store_url)
    yield machines
    machines.store.close()


in_postgresql = pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)


@in_postgresql
def test_a_job_goes_on_wherever_the_store_can_be_reached(machines: Machines) -> None:
    """Also on one that had it before and has files of then. The user's own folder isn't needed once it has begun."""
    machines.begin("a", 1)
    assert Job(machines.store, machines.job).get_status().can_move
    with pytest.raises(ModelError):
        machines.work("b", 1)  # the command that adds a line
    machines.work("a", 9)
    machines.check()


@in_postgresql
def test_files_that_are_too_large_stay_where_they_are(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carried, "MOST", 10)
    machines.begin("a", 2)
    assert not Job(machines.store, machines.job).get_status().can_move
    assert "worker-a had them, and they were too large for the store: resume it there" in str(machines.refusal("b"))
    machines.work("a", 9)
    machines.check()


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_a_store_of_one_machine_says_where_the_files_are(machines: Machines) -> None:
    machines.begin("a", 2)
    root = machines.folder / "b" / "jobs" / machines.job
    missing = f"the files of this job are not in {root}, where worker-a had them: resume it there, or copy that folder"
    assert str(machines.refusal("b")).startswith(missing)
    shutil.copytree(machines.folder / "a" / "jobs" / machines.job, root)
    machines.work("b", 9)
    machines.check()


@in_postgresql
def test_a_machine_that_was_frozen_keeps_no_files(store_url: str) -> None:
    store = Store(store_url)
    lease = store.lease(store.create({}), "frozen", 0.0)
    packs = store.packs(lease)
    assert packs
    asyncio.run(packs.add("t1", b"pack"))
    other = store.packs(store.lease(lease.job, "other", 10))
    assert other and asyncio.run(other.read()) == [b"pack"]
    with pytest.raises(LeaseError, match="was taken by another worker"):
        asyncio.run(packs.add("t2", b"late"))
    assert asyncio.run(other.read()) == [b"pack"]
    store.close()


class WaitingModel(MemorylessModel):
    """Waits before its third answer, when the first call of a tool has ended."""

    def __init__(self) -> None:
        self.num_asked, self.may_answer = 0, threading.Event()

    async def reply(self, request: Request) -> Reply:
        self.num_asked += 1
        if self.num_asked == 3:
            assert self.may_answer.wait(60)
        return await super().reply(request)


@in_postgresql
def test_jobs_are_resumed_elsewhere_as_users_do(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers are processes, and the platform's data folder is another one on each machine."""
    model = WaitingModel()
    (source := tmp_path / "source").mkdir()
    (source / "notes.txt").write_text("one\n")
    store = Store(store_url)
    with ModelServer(model) as server:
        task = Task(description="Write notes", checks=["grep -qx two notes.txt"])
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "a"))
        spec = JobSpec.of(task, folder=str(source), base_url=server.base_url, model=model.name)
        job = Job.start(store, spec)
        assert eventually(lambda: model.num_asked == 3, within_s=60)
        job.pause()
        model.may_answer.set()
        assert eventually(lambda: job.get_status().state == "paused", within_s=60)
        shutil.rmtree(tmp_path / "a")
        shutil.rmtree(source)
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "b"))
        job.resume()
        assert eventually(lambda: job.is_complete, within_s=60)
    result = job.get_results()
    assert (result.success, result.files_changed) == (True, ("notes.txt",)), result
    assert (tmp_path / "b" / "minimax-code" / "jobs" / job.id).is_dir()
    store.close()
