"""delegate: a part of the work for another agent, with a context and a budget of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pydantic import Field

from minimax_code.budget import Budget
from minimax_code.events import AgentStopped
from minimax_code.tools.tool import Arguments, Output, Place, Typed
from minimax_code.workbench.bench import Workbench

StartAgent = Callable[[str, str, Workbench, Budget], Awaitable[AgentStopped]]
"""Runs an agent: its name, its task, where, and with what."""

_SHARE = 0.5  # of what is left, at most, so that the agent can still use what it is told


class DelegateArguments(Arguments):
    task: str = Field(min_length=1, description="what is to be done, with all that is needed to know: nothing else is")


class Delegate(Typed[DelegateArguments]):
    """Has another agent do something in the same folder, and gives back its last words.

    The child's events are in the same log, so that a child that a crash cut short goes on where it was.
    """

    name = "delegate"
    description = "Has another agent do a part of the work in the same folder, and returns its report."
    takes = DelegateArguments
    reach = "files"
    resumes = True

    def __init__(self, start: StartAgent) -> None:
        self._start = start

    async def _call(self, arguments: DelegateArguments, place: Place) -> Output:
        budget = place.budget.child(**place.budget.left.share(_SHARE))
        stopped = await self._start(f"{place.agent}/{place.number}", arguments.task, place.bench, budget)
        if stopped.reason == "finished":
            return Output(stopped.message)
        return Output(f"it has not finished ({stopped.reason}): {stopped.message}", failed=True)
