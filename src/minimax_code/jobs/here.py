"""A job that is worked on in this process, while somebody watches."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from minimax_code.events import Recorded
from minimax_code.jobs.launch import root_of
from minimax_code.jobs.task import do_task
from minimax_code.jobs.worker import LEASE_S, work_on
from minimax_code.model import Model
from minimax_code.permissions import Asker
from minimax_code.store import Store
from minimax_code.store.row import JobRow
from minimax_code.tools.tool import Tool

_LOOK_S = 0.1


async def work_here(
    store: Store, job: str, *, model: Model, ask: Asker | None = None, tools: Sequence[Tool] | None = None
) -> None:
    """Goes on with the task of a job until it ends.

    Args:
        ask, tools: as of `do_task`.

    Raises:
        StoreError: another worker has it, or it has ended.
        CodeError: what ended the work. The job can be resumed.
    """
    work = partial(do_task, root=root_of(store.url), model=model, ask=ask, tools=tools)
    await work_on(store, store.lease(job, owner_here(store.job(job)), LEASE_S), work)


def this_process() -> str:
    """The name of this process as an owner of jobs that it works on itself. Others have workers, which outlive them."""
    return f"{os.uname().nodename}-here-{os.getpid()}"


def owner_here(row: JobRow) -> str:
    """As whom this process takes a job: as itself, or as a process of this machine that had it and is dead.

    In the name of a dead one it needn't wait until that one's lease has run out, and goes on in its folder.
    """
    machine, _, process = (row.owner or "").rpartition("-here-")
    if row.owner and machine == os.uname().nodename and process.isdigit() and not _is_alive(int(process)):
        return row.owner
    return this_process()


def place_of(store: Store, job: str) -> Path:
    """Where the files of a job are that somebody has begun with."""
    return root_of(store.url) / job / str(store.job(job).owner)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


class Follower:
    """Tells of a job's events, each once and in their order.

    Args:
        seen: the number of the newest event that needs no telling.
    """

    def __init__(self, store: Store, job: str, tell: Callable[[Recorded], Awaitable[object]], *, seen: int = 0) -> None:
        self._store, self._job, self._tell, self._seen = store, job, tell, seen
        self._turn = asyncio.Lock()

    async def catch_up(self) -> None:
        """Tells of all that are there by now."""
        async with self._turn:
            for recorded in self._store.events(self._job, self._seen):
                self._seen = recorded.seq
                await self._tell(recorded)

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncGenerator[None, None]:
        """Tells as they come while the context lasts, and then of those that are there.

        Where telling fails, as nobody listens any more, what is done in the context is cancelled, and that is raised.
        """
        ended, work = asyncio.Event(), asyncio.current_task()
        following = asyncio.create_task(self._follow(ended))
        following.add_done_callback(lambda _: work and not ended.is_set() and work.cancel())
        try:
            yield
        finally:
            ended.set()
            await following

    async def _follow(self, ended: asyncio.Event) -> None:
        while not ended.is_set():
            await self.catch_up()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), _LOOK_S)
        await self.catch_up()
