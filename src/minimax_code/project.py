"""A project: phases that agents work on, each a task with its own contract, and the files they come together in."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Literal

from minimax_code.contract import Check
from minimax_code.errors import InputError
from minimax_code.loop import Loop
from minimax_code.merge import Merged, MergeQueue
from minimax_code.work.agent import Agent
from minimax_code.work.result import TaskResult
from minimax_code.work.task import Task
from minimax_code.workbench.workspace import Workspace

Workflow = Literal["sequential", "parallel"]
Do = Callable[[Task, Path | None], Awaitable[tuple[TaskResult, Path]]]
"""Does a task on a copy of a folder; its result, and the place where its files are."""


class Phase:
    """A phase of a project, which may still be worked on; what it came to is waited for.

    Attributes:
        name, agent: as given.
        after: phases that it builds on.
    """

    def __init__(self, name: str, agent: Agent, after: Sequence[str], future: Future[tuple[TaskResult, Merged | None]]):
        self.name, self.agent, self.after = name, agent, tuple(after)
        self._future = future

    @property
    def is_complete(self) -> bool:
        """Whether it has ended."""
        return self._future.done()

    @property
    def result(self) -> TaskResult:
        """What came of it; waits for its end.

        Raises:
            CodeError: what ended the work before there was a result.
        """
        return self._future.result()[0]

    @property
    def success(self) -> bool:
        """Whether it was verified and is part of the project now; waits for its end."""
        return self.result.success and self.is_merged

    @property
    def is_merged(self) -> bool:
        """Whether the project has its files now; waits for its end."""
        merged = self._future.result()[1]
        return merged is not None and not merged.conflicts

    @property
    def conflicts(self) -> tuple[str, ...]:
        """Files in which it contradicts what was merged before; waits for its end."""
        merged = self._future.result()[1]
        return merged.conflicts if merged else ()

    def __str__(self) -> str:
        if not self.is_complete:
            return f"{self.name}: worked on by {self.agent.name}"
        conflicts = f"\n- conflicts in {', '.join(self.conflicts)}" if self.conflicts else ""
        merged = "merged" if self.is_merged else "not merged"
        return f"{self.name}, {merged}: {self.result}{conflicts}"


class Project:
    """Phases and the files that they have come to. Made by `MiniMaxCode.create_project`.

    A phase whose checks are met is merged: nothing red gets into the project. Where two that were worked on side by
    side changed the same lines, the agent of the later one is asked to bring both together, and the checks of both
    decide whether it has; else the conflict is reported and the project stays as it was.

    Args:
        folder: what it begins with; None for nothing.
        root: the folder of projects, in which it makes its own.
    """

    def __init__(
        self,
        name: str,
        description: str,
        agents: Sequence[Agent],
        workflow: Workflow,
        *,
        folder: Path | None,
        root: Path,
        do: Do,
        loop: Loop,
    ) -> None:
        names = [agent.name for agent in agents]
        if not name.strip():
            raise InputError("name", "is empty; a project needs one")
        if not agents or len(set(names)) < len(names):
            raise InputError("agents", f"have to be there, each with a name of its own; got {names}")
        if workflow not in ("sequential", "parallel"):
            raise InputError("workflow", f"{workflow!r} is none; it is 'sequential' or 'parallel'")
        self.name, self.description, self.agents, self.workflow = name, description, tuple(agents), workflow
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "project"
        self.folder = root / f"{slug}-{secrets.token_hex(4)}"
        self.phases: dict[str, Phase] = {}
        self._do, self._loop = do, loop
        self._queue = MergeQueue(loop.run(Workspace.create(folder, self.folder)))
        self._checks: dict[str, tuple[Check, ...]] = {}

    @property
    def path(self) -> Path:
        """The files as they are now."""
        return self._queue.head.path

    @property
    def diff(self) -> str:
        """From what the project began with to what it is now."""
        return self._loop.run(self._queue.head.patch()).decode(errors="replace")

    def execute_phase(
        self, phase_name: str, agent: Agent, task: str | Task, *, after: Sequence[str] | None = None
    ) -> Phase:
        """Has an agent do a task on the project's files.

        In a sequential workflow this waits for its end. In a parallel one it returns at once, and the phase begins when
        those that it builds on have ended.

        Args:
            task: what to do; a `Task` may have checks and constraints of its own.
            after: names of phases that it builds on; by default all before it in a sequential workflow, else none.

        Raises:
            InputError: the name is taken, the agent isn't of the project, or `after` names no phase.
        """
        if not phase_name.strip() or phase_name in self.phases:
            raise InputError("phase_name", f"{phase_name!r} is empty or taken; each phase has a name of its own")
        if agent not in self.agents:
            raise InputError(
                "agent", f"{agent.name} is not one of the project's: {', '.join(a.name for a in self.agents)}"
            )
        needed = (list(self.phases) if self.workflow == "sequential" else []) if after is None else list(after)
        if unknown := [name for name in needed if name not in self.phases]:
            raise InputError(
                "after", f"there is no phase {unknown[0]!r}; phases are executed after those they build on"
            )
        given = task if isinstance(task, Task) else Task(description=task)
        project = f"This is the phase {phase_name!r} of the project {self.name!r}: {self.description}"
        own = Task(**{**_fields(given), "description": f"{given.description}\n\n{project}", "agent": agent})
        future = self._loop.start(self._work(phase_name, own, [self.phases[name] for name in needed]))
        phase = self.phases[phase_name] = Phase(phase_name, agent, needed, future)
        if self.workflow == "sequential":
            future.result()
        return phase

    def wait(self) -> dict[str, Phase]:
        """All phases, when they have ended."""
        for phase in self.phases.values():
            _ = phase.result
        return dict(self.phases)

    async def _work(self, name: str, task: Task, needed: Sequence[Phase]) -> tuple[TaskResult, Merged | None]:
        for phase in needed:
            await asyncio.wrap_future(phase._future)
        before = self.folder / "phases" / secrets.token_hex(4)
        async with self._queue.turn:
            await self._queue.head.export(await self._queue.head.snapshot(), before)
        result, place = await self._do(task, before)
        if result.contract is None or result.contract.unmet(result.receipts, result.tree) or not result.is_final:
            return result, None
        async with self._queue.turn:
            merged = await self._queue.try_out(await Workspace.open(place), result.tree)
            if merged.conflicts:
                return await self._bring_together(name, task, result, merged)
            await self._queue.take(merged.tree)
            self._checks[name] = result.contract.checks
        return result, merged

    async def _bring_together(
        self, name: str, task: Task, result: TaskResult, merged: Merged
    ) -> tuple[TaskResult, Merged | None]:
        """Has the agent resolve the conflicts, measured by its own checks and those of the phases merged before."""
        assert result.contract
        before = self.folder / "phases" / secrets.token_hex(4)
        await self._queue.head.export(merged.tree, before)
        checks = [check for checks in self._checks.values() for check in checks] + list(result.contract.checks)
        unmarked = Check(command=("sh", "-c", '! grep -l "^<<<<<<< " "$@"', "sh", *merged.conflicts))
        text = (
            f"Two agents have changed the same lines of {', '.join(merged.conflicts)}, where git has left its conflict "
            "markers. Bring both changes together so that each does what it was made for. "
            f"Yours was: {task.description}"
        )
        together, place = await self._do(
            Task(description=text, checks=[*dict.fromkeys(checks), unmarked], agent=task.agent), before
        )
        if not together.success:
            issue = f"it contradicts what was merged before, in {', '.join(merged.conflicts)}"
            return result.model_copy(update={"state": "partial", "issues": (*result.issues, issue)}), merged
        self._queue.see(await Workspace.open(place))  # it began with the head's files, and nobody else had a turn
        await self._queue.take(together.tree)
        self._checks[name] = result.contract.checks
        return together, Merged(tree=together.tree)


def _fields(task: Task) -> dict[str, object]:
    return {name: getattr(task, name) for name in type(task).model_fields}
