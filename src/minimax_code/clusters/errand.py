"""What an agent is sent to do, and what comes back; both can go to another machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from minimax_code.clusters.subtask import Subtask
from minimax_code.errors import CodeError
from minimax_code.record import Record
from minimax_code.work.strategy import Wanted

MOST_LOST = 3
"""Processes or machines that an errand may take along before it has failed."""


class AgentSpec(Record):
    """An agent, as those know it who work for it elsewhere."""

    id: str
    name: str
    role: str
    capabilities: tuple[str, ...] = ()
    model: str | None = None
    strategy: Wanted = "auto"


class Errand(Record):
    """A sub-task on its way to an agent.

    Attributes:
        id: of this attempt at it, among all of a store.
        attempt: 1 for the first.
        causes: why those before this one failed.
        inputs: results of the sub-tasks that it stands on, by their ids: each after those that it depends on itself.
        folder: the files to begin with; None: none.
    """

    subtask: Subtask
    agent: AgentSpec
    id: str = ""
    attempt: int = 1
    causes: tuple[str, ...] = ()
    inputs: Mapping[str, dict[str, Any]] = {}
    folder: str | None = None

    @property
    def text(self) -> str:
        """What is to be done, as a model reads it."""
        lines = [self.subtask.description.strip()]
        for name, result in self.inputs.items():
            if summary := str(result.get("summary") or "").strip():
                lines += ["", f"Done before ({name}): {summary}"]
        for number, cause in enumerate(self.causes, start=1):
            lines += ["", f"Attempt {number} failed: {cause}"]
        return "\n".join(lines)


class Outcome(Record):
    """What came of an errand.

    Attributes:
        result: JSON. Of its members `summary` is told to those who go on from there, and `diff` is their files.
        cause: why it failed.
    """

    success: bool
    result: Mapping[str, Any] = {}
    cause: str = ""


Work = Callable[[Errand], Awaitable[Outcome]]
"""How errands are done. What it raises is the cause of a failed attempt."""


async def attempt(work: Work, errand: Errand) -> Outcome:
    """What comes of an errand, whatever becomes of the work: one sub-task that fails must not end the others."""
    try:
        return await work(errand)
    except CodeError as error:
        return Outcome(success=False, cause=str(error))
    except Exception as error:
        return Outcome(success=False, cause=f"{type(error).__name__}: {error}")
