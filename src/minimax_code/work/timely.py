"""A sandbox for a task that has only so much time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from minimax_code.budget import Budget
from minimax_code.workbench.running import Launch, Limits
from minimax_code.workbench.sandbox import Ran, Sandbox

GRACE_S = 10.0
"""What each run has when no time is left: enough to see whether quick checks hold of what was done until then."""


class TimelySandbox(Sandbox):
    """Another sandbox, in which no run goes on for longer than the seconds that are left of a budget."""

    def __init__(self, sandbox: Sandbox, budget: Budget) -> None:
        self._sandbox, self._budget = sandbox, budget
        self.name, self.readable, self.python = sandbox.name, sandbox.readable, sandbox.python

    def problem(self) -> str | None:
        return self._sandbox.problem()

    async def run(self, command: Sequence[str], *, limits: Limits | None = None, **options: Any) -> Ran:
        limits, left = limits or Limits(), self._budget.left.seconds
        if left is not None:
            limits = limits.model_copy(update={"seconds": min(limits.seconds, max(left, GRACE_S))})
        return await self._sandbox.run(command, limits=limits, **options)

    def _launch(self, *arguments: Any) -> AbstractContextManager[Launch]:
        return self._sandbox._launch(*arguments)
