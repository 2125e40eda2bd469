"""Workers that are killed: each line that a process reads is a job to work on, in a child that dies at a chosen event.

What is slow is imported once. It is run as `python -m helpers.dying`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Generator, Iterable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import sqlalchemy as sa

from helpers.memoryless import MemorylessModel
from helpers.steps import work
from minimax_code.client import MiniMaxCode
from minimax_code.events import Event, PhaseAdded, PhaseBegan, PhaseEnded, ProjectBegan, Recorded
from minimax_code.jobs.task import do_task
from minimax_code.jobs.worker import Work, work_on
from minimax_code.store import Store, StoredLog
from minimax_code.store.log import _Entry
from minimax_code.work.agent import Agent
from minimax_code.work.task import Task

When = Literal["before", "during", "after"]


class DyingWorkers:
    """The process, from outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def work(self, url: str, job: str, owner: str, n: int, when: When, spared: Iterable[str] = ()) -> str:
        """Works on a job until the n-th event is about to be written, is being committed, or has been written.

        Of the job "project" those of the project itself count, and the owner is the address of a model's server.

        Args:
            spared: events that don't count.

        Returns:
            What it was killed over, the event's kind and agent; "" if it had fewer events, and is done.
        """
        assert self._process.stdin and self._process.stdout
        print(url, job, owner, n, when, *spared, file=self._process.stdin, flush=True)
        *killed_over, code = self._process.stdout.readline().split()
        assert int(code) == (-signal.SIGKILL if killed_over else 0)
        return "".join(killed_over)


@contextmanager
def dying_workers() -> Generator[DyingWorkers, None, None]:
    """Workers for as long as the block lasts."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "helpers.dying"]
    with subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        yield DyingWorkers(process)
        process.kill()


def work_of(url: str) -> Work:
    """What is done in tests: the task of a job that has one, else steps that leave lines in `effects`."""
    folder = Path(url).parent
    if (folder / "source").is_dir():
        return partial(do_task, root=folder / "jobs", model=MemorylessModel())
    return work(folder / "effects", 3)


def build_project(url: str, base_url: str) -> None:
    """Executes two phases of a project, or goes on with them."""
    ada = Agent(name="Ada", role="Engineer")
    with MiniMaxCode(folder=Path(url).parent / "source", store=url, base_url=base_url, strategy="agent") as code:
        project = code.create_project("Shop", "A shop", [ada])
        for name, path, text in (("B", "b", "one"), ("C", "c", "two")):
            task = Task(description=f"write {path} {text}", checks=[f"grep -q {text} {path}"])
            assert project.execute_phase(name, ada, task).success


def _die_at(n: int, when: When, spared: Collection[str] = (), kinds: tuple[type[Event], ...] = (Event,)) -> None:
    append, count = StoredLog._append, 0

    def counted(self: StoredLog, entry: _Entry) -> Recorded:
        name = f"{type(entry.event).__name__}:{getattr(entry.event, 'agent', '')}".replace(" ", "-")

        def kill(*_: object) -> None:
            print(name, end=" ", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

        nonlocal count
        if name in spared or not isinstance(entry.event, kinds):
            return append(self, entry)
        count += 1
        if (count, when) == (n, "before"):
            kill()
        if (count, when) == (n, "during"):
            sa.event.listen(self._database._engine, "commit", kill)
        recorded = append(self, entry)
        if (count, when) == (n, "after"):
            kill()
        return recorded

    StoredLog._append = counted  # type: ignore[method-assign]


def main() -> None:
    """Works on one job after the other."""
    for line in sys.stdin:
        url, job, owner, n, when, *spared = line.split()
        if not (pid := os.fork()):
            if job == "project":
                _die_at(int(n), when, (), (ProjectBegan, PhaseAdded, PhaseBegan, PhaseEnded))  # type: ignore[arg-type]
                build_project(url, owner)
                os._exit(0)
            _die_at(int(n), when, spared)  # type: ignore[arg-type]
            store = Store(url)
            asyncio.run(work_on(store, store.lease(job, owner, 0), work_of(url)))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
