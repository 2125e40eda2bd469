"""A project: phases that agents work on, each a task with its own contract, and the files they come together in.

All of it is in the store, as events of a job of its own: a project outlives its process, and goes on when it is opened.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
from collections.abc import Awaitable, Coroutine, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Protocol

from minimax_code.contract import Check, Contract
from minimax_code.errors import InputError, LeaseError, WorkspaceError
from minimax_code.events import Event, Log, PhaseAdded, PhaseBegan, PhaseEnded, ProjectBegan
from minimax_code.jobs.here import owner_here, this_process
from minimax_code.jobs.launch import root_of
from minimax_code.jobs.worker import LEASE_S, Assignment, work_on
from minimax_code.loop import Loop
from minimax_code.merge import MergeQueue
from minimax_code.phase import Phase, Phases, result_of
from minimax_code.store import Store
from minimax_code.work.agent import Agent
from minimax_code.work.checks import complaints, run_checks
from minimax_code.work.result import TaskResult
from minimax_code.work.task import Task
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.landing import apply_patch
from minimax_code.workbench.sandbox import find_sandbox
from minimax_code.workbench.workspace import Workspace

Workflow = Literal["sequential", "parallel"]
QUEUE = "projects"
"""The queue of jobs that are projects."""


class Do(Protocol):
    """Does a task on a copy of a folder, as a job; where the job has begun it goes on with it."""

    def __call__(self, task: Task, folder: Path | None, job: str) -> Awaitable[tuple[TaskResult, Path]]:
        """The result, and the place where its files are."""
        ...


class Project:
    """Phases and the files that they have come to. Made and opened by `MiniMaxCode`.

    A phase whose checks are met is merged: nothing red gets into the project. Where two that were worked on side by
    side changed the same lines, or the checks of both aren't green together, the agent of the later one is asked to
    bring both together, and those checks decide whether it has; else that is reported and the project stays as it was.

    Args:
        python: the interpreter that has what the project needs, for the checks of what was merged.

    Attributes:
        id: of its job in the store; those of its phases begin with it.

    Raises:
        LeaseError: another process has it open.
        StoreError: there is none of this id.
        WorkspaceError: its files are on another machine, or those that it begins with can't be copied.
    """

    def __init__(self, id: str, *, store: Store, do: Do, loop: Loop, python: str) -> None:
        self.id, self._store, self._do, self._loop, self._python = id, store, do, loop, python
        row = store.job(id)
        self.name, self.description = str(row.spec["name"]), str(row.spec["description"])
        self.workflow: Workflow = row.spec["workflow"]
        self.agents = tuple(Agent(**agent) for agent in row.spec["agents"])
        self.phases: dict[str, Phase] = {}
        self._source = Path(row.spec["folder"]) if row.spec["folder"] else None
        self._folder = root_of(store.url).parent / "projects" / id
        self._closing, self._working = asyncio.Event(), set[asyncio.Future[PhaseEnded]]()
        self._log: Log
        self._queue: MergeQueue
        self._written: Phases
        if row.leased and row.owner == this_process():
            raise LeaseError(f"the project {self.name!r} is open in this process already")
        store.wish(id, "run")  # an error may have paused it
        lease = store.lease(id, owner_here(row), LEASE_S)
        opened: Future[None] = Future()
        self._open = loop.start(work_on(store, lease, partial(self._serve, opened)))
        self._open.add_done_callback(lambda ended: _pass_on(ended, opened))
        opened.result()

    @property
    def is_open(self) -> bool:
        """Whether it is worked on here: nobody has closed it, and no other process has taken it."""
        return not self._open.done()

    @property
    def path(self) -> Path:
        """The files as they are now."""
        return self._queue.head.path

    @property
    def diff(self) -> str:
        """From what the project began with to what it is now."""
        return self._loop.run(self._queue.head.patch()).decode(errors="replace")

    def apply(self) -> list[str]:
        """Brings the change to the folder that the project began with, merged with what has changed there since.

        Returns:
            Paths of the files that it has changed.

        Raises:
            InputError: the project began with nothing.
            WorkspaceError: it conflicts; nothing was changed.
        """
        if self._source is None:
            raise InputError("folder", f"{self.name} began with nothing; its files are in {self.path}")
        return self._loop.run(apply_patch(self._loop.run(self._queue.head.patch()), self._source))

    def execute_phase(
        self, phase_name: str, agent: Agent, task: str | Task, *, after: Sequence[str] | None = None
    ) -> Phase:
        """Has an agent do a task on the project's files.

        In a sequential workflow this waits for its end. In a parallel one it returns at once, and the phase begins when
        those that it builds on have ended. A phase that is there already is waited for, or its result is taken from
        the store; one that was not merged is done again.

        Args:
            task: what to do; a `Task` may have checks and constraints of its own.
            after: names of phases that it builds on; by default all before it in a sequential workflow, else none.

        Raises:
            InputError: the name is that of another task, the agent isn't of the project, or `after` names no phase.
        """
        if not phase_name.strip():
            raise InputError("phase_name", "is empty; each phase has a name of its own")
        if agent not in self.agents:
            raise InputError(
                "agent", f"{agent.name} is not one of the project's: {', '.join(a.name for a in self.agents)}"
            )
        given = task if isinstance(task, Task) else Task(description=task)
        if phase := self.phases.get(phase_name):
            self._same(phase_name, agent, given, after)
            if phase.can_go_on:
                phase = self._start(phase_name)
        else:
            needed = (list(self.phases) if self.workflow == "sequential" else []) if after is None else list(after)
            if unknown := [name for name in needed if name not in self.phases]:
                raise InputError(
                    "after", f"there is no phase {unknown[0]!r}; phases are executed after those they build on"
                )
            fields = given.model_dump(mode="json")
            added = PhaseAdded(phase=phase_name, agent=agent.name, task=fields, after=tuple(needed))
            self._loop.run(self._write(added))
            phase = self._start(phase_name)
        if self.workflow == "sequential":
            phase.future.result()
        return phase

    def wait(self) -> dict[str, Phase]:
        """All phases, when they have ended."""
        for phase in self.phases.values():
            phase.future.result()
        return dict(self.phases)

    def close(self) -> None:
        """Ends what is being worked on, so that it can be opened and gone on with. A second time does nothing."""
        if not self._open.done():
            self._loop.run(self._close())

    def _same(self, name: str, agent: Agent, task: Task, after: Sequence[str] | None) -> None:
        there = self._written.added[name]
        now = (agent.name, task.model_dump(mode="json"), there.after if after is None else tuple(after))
        if now != (there.agent, there.task, there.after):
            raise InputError("phase_name", f"{name!r} is taken by another task; each phase has a name of its own")

    async def _serve(self, opened: Future[None], assignment: Assignment, log: Log) -> None:
        """Has the project for as long as this process wants it, and goes on with the phases that have no end yet."""
        self._log, self._written = log, Phases.of(log.recorded)
        try:
            self._queue = MergeQueue(await self._head())
            for name, added in self._written.added.items():
                if ended := self._written.ended.get(name):
                    self.phases[name] = Phase(name, self._agent(name), added.after, _done(ended))
                else:
                    self._start(name)
            opened.set_result(None)
            await self._closing.wait()
        finally:
            for work in self._working:
                work.cancel()
            await asyncio.gather(*self._working, return_exceptions=True)

    async def _close(self) -> None:
        self._closing.set()
        await asyncio.wrap_future(self._open)

    async def _head(self) -> Workspace:
        """The project's files, as they were after the last phase that was merged."""
        if self._written.tree is None:
            shutil.rmtree(self._folder, ignore_errors=True)  # of a process that died while it copied
            head = await Workspace.create(self._source, self._folder)
            await self._write(ProjectBegan(base=head.base))
            return head
        if not self._folder.is_dir():
            raise WorkspaceError(f"the files of {self.name} are not in {self._folder}; open it where it was made")
        head = await Workspace.open(self._folder)
        await head.restore(self._written.tree)
        return head

    def _agent(self, phase: str) -> Agent:
        return next(agent for agent in self.agents if agent.name == self._written.added[phase].agent)

    def _start(self, name: str) -> Phase:
        """Works on a phase, from where it is."""
        added, agent = self._written.added[name], self._agent(name)
        project = f"This is the phase {name!r} of the project {self.name!r}: {self.description}"
        described = f"{added.task['description']}\n\n{project}"
        task = Task(**{**added.task, "description": described, "agent": agent})
        future = self._loop.start(self._watched(self._work(name, task, [self.phases[each] for each in added.after])))
        phase = self.phases[name] = Phase(name, agent, added.after, future)
        return phase

    async def _watched(self, work: Coroutine[Any, Any, PhaseEnded]) -> PhaseEnded:
        """Work that ends when the project is closed."""
        this = asyncio.ensure_future(work)
        self._working.add(this)
        try:
            return await this
        finally:
            self._working.discard(this)

    async def _work(self, name: str, task: Task, needed: Sequence[Phase]) -> PhaseEnded:
        for phase in needed:
            await asyncio.wrap_future(phase.future)
        began = await self._begin(name)
        result, place = await self._do(task, await self._lay(began.tree, began.job), began.job)
        ended = PhaseEnded(phase=name, job=began.job, tree=began.tree, result=result.model_dump(mode="json"))
        if not result.is_final:  # what is not written down can be gone on with
            return ended
        async with self._queue.turn:
            if result.contract and not result.contract.unmet(result.receipts, result.tree):
                ended = await self._merge(task, ended, result, place)
            if not result_of(ended).is_final:
                return ended
            await self._write(ended)
            if ended.merged:
                await self._queue.take(ended.tree)
        shutil.rmtree(self._folder / "phases" / began.job, ignore_errors=True)
        return ended

    async def _begin(self, name: str) -> PhaseBegan:
        """When it began, and on what: an attempt that has no end is gone on with."""
        if (began := self._written.began.get(name)) and name not in self._written.ended:
            return began
        async with self._queue.turn:
            tree, job = await self._queue.head.snapshot(), f"{self.id}-{self._written.num_begun + 1}"
            began = PhaseBegan(phase=name, job=job, tree=tree)
            await self._write(began)
        return began

    async def _lay(self, tree: str, name: str) -> Path:
        """A folder with a tree of the project; one that is there is whole."""
        folder = self._folder / "phases" / name
        if not folder.exists():
            new = folder.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            await self._queue.head.export(tree, new)
            new.rename(folder)
        return folder

    async def _merge(self, task: Task, ended: PhaseEnded, result: TaskResult, place: Path) -> PhaseEnded:
        """Brings a phase's files into the project, if what was proved of it and of others holds of both together."""
        assert result.contract
        merged = await self._queue.try_out(await Workspace.open(place), result.tree)
        checks = (*self._written.checks_since(ended.phase), *result.contract.checks)
        if merged.conflicts:
            names = ", ".join(merged.conflicts)
            wrong = f"Two agents have changed the same lines of {names}, where git has left its conflict markers."
            issue = f"it contradicts what was merged before, in {names}"
            unmarked = Check(command=("sh", "-c", '! grep -l "^<<<<<<< " "$@"', "sh", *merged.conflicts))
            checks = (*checks, unmarked)
        elif merged.tree != result.tree and (red := await self._red(merged.tree, checks)):
            told = "\n\n".join(f"- {complaint}" for complaint in red)
            wrong = f"What two agents have done side by side is right alone, but not together:\n\n{told}\n\n"
            issue = f"it is not right together with what was merged before: {red[0]}"
        else:
            return ended.model_copy(update={"tree": merged.tree, "merged": True})
        text = f"{wrong} Bring both together so that each does what it was made for. Yours was: {task.description}"
        bring = Task(description=text, checks=[*dict.fromkeys(checks)], agent=task.agent)
        job = f"{ended.job}-{merged.tree[:8]}"
        together, place = await self._do(bring, await self._lay(merged.tree, job), job)
        told_of = together.model_dump(mode="json")
        if together.success:
            self._queue.see(await Workspace.open(place))  # it began with the merged files, and nobody else had a turn
            return ended.model_copy(update={"tree": together.tree, "merged": True, "result": told_of})
        if not together.is_final:
            return ended.model_copy(update={"result": told_of})
        failed = result.model_copy(update={"state": "partial", "issues": (*result.issues, issue)})
        return ended.model_copy(update={"result": failed.model_dump(mode="json"), "conflicts": merged.conflicts})

    async def _red(self, tree: str, checks: Sequence[Check]) -> tuple[str, ...]:
        """What is not right about a tree."""
        contract = Contract(checks=tuple(dict.fromkeys(checks)))
        with TemporaryDirectory(prefix="minimax-code-") as name:
            await self._queue.head.export(tree, Path(name, "files"))
            async with await Workspace.create(Path(name, "files"), Path(name, "copy")) as copy:
                bench = Workbench(copy, find_sandbox(python=self._python), python=self._python)
                receipts = await run_checks(contract, bench)
                return complaints(contract, receipts, copy.base)

    async def _write(self, event: Event) -> None:
        await self._log.append(event)
        self._written.apply(event)


def project_spec(
    name: str, description: str, agents: Sequence[Agent], workflow: Workflow, folder: Path | None
) -> dict[str, Any]:
    """What is written down of a project when it is made.

    Raises:
        InputError: an argument can't be used.
    """
    names = [agent.name for agent in agents]
    if not name.strip():
        raise InputError("name", "is empty; a project needs one")
    if not agents or len(set(names)) < len(names):
        raise InputError("agents", f"have to be there, each with a name of its own; got {names}")
    if workflow not in ("sequential", "parallel"):
        raise InputError("workflow", f"{workflow!r} is none; it is 'sequential' or 'parallel'")
    # As JSON has it, so that it can be compared with what is in a store.
    members = [{"name": agent.name, "role": agent.role, "expertise": list(agent.expertise)} for agent in agents]
    given = {"name": name, "description": description, "agents": members, "workflow": workflow}
    return {**given, "folder": None if folder is None else str(folder)}


def id_of(name: str, folder: Path | None) -> str:
    """Of a project by this name, on this folder."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "unnamed"
    return f"project-{slug}-{hashlib.sha256(f'{name}|{folder}'.encode()).hexdigest()[:8]}"


def _done(ended: PhaseEnded) -> Future[PhaseEnded]:
    future: Future[PhaseEnded] = Future()
    future.set_result(ended)
    return future


def _pass_on(ended: Future[None], opened: Future[None]) -> None:
    """What kept a project from being opened."""
    if not opened.done():
        opened.set_exception(ended.exception() or LeaseError("the project was closed while it was opened"))
