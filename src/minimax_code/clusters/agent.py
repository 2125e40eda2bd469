"""An agent of a cluster: what it knows about, and how much it does at once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minimax_code.clusters.decomposition import given
from minimax_code.clusters.errand import AgentSpec, Errand, Work, attempt
from minimax_code.clusters.subtask import Subtask
from minimax_code.clusters.task import do_task
from minimax_code.errors import InputError
from minimax_code.work.strategy import Wanted, check_strategy


class Agent:
    """Somebody who does sub-tasks.

    Args:
        id: unique in its cluster.
        capabilities: what it knows about; case doesn't count.
        model: by the name that the model's server knows; None: the only one that it has, or its "default".
        max_concurrent_tasks: how many sub-tasks it does at once.
        strategy: how it works on them, as of `MiniMaxCode`.
        work: how it does them; as tasks, with files, checks and a verifier, where nothing else is said.

    Attributes:
        num_running: sub-tasks that it is doing.
        num_begun: those that it was given so far.

    Raises:
        InputError: an argument can't be used.
    """

    def __init__(
        self,
        id: str,
        name: str,
        role: str,
        capabilities: Sequence[str],
        model: str | None = None,
        max_concurrent_tasks: int = 3,
        *,
        strategy: Wanted = "auto",
        work: Work = do_task,
    ) -> None:
        if isinstance(capabilities, str):
            raise InputError("capabilities", f"{capabilities!r} is one text; give a list of them")
        if max_concurrent_tasks < 1:
            raise InputError("max_concurrent_tasks", f"must be 1 or more, got {max_concurrent_tasks}")
        check_strategy(strategy)
        self.id, self.name, self.role, self.model = id, name, role, model
        self.strategy: Wanted = strategy
        self.capabilities = tuple(capabilities)
        self.max_concurrent_tasks = max_concurrent_tasks
        self.num_running = self.num_begun = 0
        self._known = {name.casefold() for name in self.capabilities}
        self.work = work

    def __repr__(self) -> str:
        return f"Agent({self.id!r}, {self.name!r})"

    @property
    def spec(self) -> AgentSpec:
        """What others have to know of it."""
        return AgentSpec(
            id=self.id,
            name=self.name,
            role=self.role,
            capabilities=self.capabilities,
            model=self.model,
            strategy=self.strategy,
        )

    @property
    def load(self) -> float:
        """The share of its room that is taken."""
        return self.num_running / self.max_concurrent_tasks

    def is_available(self) -> bool:
        """Whether it could begin with another sub-task now."""
        return self.num_running < self.max_concurrent_tasks

    def match(self, required: Sequence[str]) -> float:
        """The share of what is required that it knows about; 1 where nothing is."""
        needed = {name.casefold() for name in required}
        return len(needed & self._known) / len(needed) if needed else 1.0

    def begin(self) -> None:
        """It has one sub-task more to do."""
        self.num_running += 1
        self.num_begun += 1

    def end(self) -> None:
        """It has one less."""
        self.num_running -= 1

    def execute(
        self,
        task: Mapping[str, Any] | Subtask,
        *,
        inputs: Mapping[str, dict[str, Any]] = {},
        folder: str | os.PathLike[str] | None = None,
    ) -> dict[str, Any]:
        """Does a sub-task by itself, outside of any cluster; `success` of the result says whether it is done.

        Args:
            inputs: results of others that it goes on from, with the files that they have made, by their ids in order.
            folder: the files to begin with; None to begin with nothing.

        Raises:
            InputError: the sub-task can't be used.
        """
        alone = dict(task) if isinstance(task, Mapping) else task.model_dump()
        [subtask] = given([alone | {"dependencies": ()}])
        where = None if folder is None else str(Path(folder).resolve())
        errand = Errand(subtask=subtask, agent=self.spec, inputs=inputs, folder=where)
        self.begin()
        try:
            outcome = asyncio.run(attempt(self.work, errand))
        finally:
            self.end()
        return {**outcome.result, "success": outcome.success, "cause": outcome.cause}
