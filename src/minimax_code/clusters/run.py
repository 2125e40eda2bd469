"""Brings sub-tasks to an end: whoever is free gets the next one that is ready."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence

from minimax_code.clusters.agent import Agent
from minimax_code.clusters.board import Board
from minimax_code.clusters.errand import Errand
from minimax_code.clusters.executor import Executor
from minimax_code.clusters.progress import Progress
from minimax_code.clusters.router import TaskRouter
from minimax_code.clusters.subtask import Subtask
from minimax_code.events import Event, Log, SubtaskBegan, SubtaskEnded

OnProgress = Callable[[Progress], object]


class Run:
    """The way of a cluster's sub-tasks to their ends.

    There are no rounds: a sub-task begins as soon as what it depends on is done and an agent is free.

    Args:
        name: unique among the runs of a store.
        at_once: sub-tasks that may run at the same time; None: as many as the agents can.
        folder: the files that all begin with.
    """

    def __init__(
        self,
        name: str,
        board: Board,
        *,
        agents: Sequence[Agent],
        router: TaskRouter,
        executor: Executor,
        at_once: int | None = None,
        folder: str | None = None,
        on_progress: OnProgress = lambda _: None,
    ) -> None:
        self._name, self._board, self._agents, self._router = name, board, agents, router
        self._executor, self._at_once, self._folder, self._on_progress = executor, at_once, folder, on_progress
        self._running: set[asyncio.Task[None]] = set()

    async def to_end(self, log: Log) -> None:
        """Goes on from where the log says that an earlier process has come.

        Raises:
            CodeError: no sub-task can be done now; the log has all that ended.
        """
        for one in log.recorded:
            self._board.apply(one.event)
        if not self._executor.goes_on:
            self._board.interrupt()
        try:
            self._take_up_again(log)
            while self._begin_ready(log):
                done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                self._running -= done
                for task in done:
                    task.result()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def _take_up_again(self, log: Log) -> None:
        """What an earlier process has begun, and somebody else goes on with."""
        agents = {agent.id: agent for agent in self._agents}
        for entry in self._board.entries.values():
            if entry.state == "running":
                self._start(entry.subtask, agents.get(entry.agents[-1], self._agents[0]), log, entry.begun)

    def _begin_ready(self, log: Log) -> bool:
        """Gives free agents something to do; returns whether anybody has."""
        starting = {task.get_name() for task in self._running}
        for subtask in self._board.ready():
            full = self._at_once is not None and len(self._running) >= self._at_once
            if full or not any(agent.is_available() for agent in self._agents):
                break
            entry = self._board.entries[subtask.id]
            if subtask.id not in starting and (agent := self._router.select(self._agents, subtask, avoid=entry.agents)):
                self._start(subtask, agent, log, None)
        return bool(self._running)

    def _start(self, subtask: Subtask, agent: Agent, log: Log, attempt: int | None) -> None:
        agent.begin()
        task = asyncio.create_task(self._do(subtask, agent, log, attempt), name=subtask.id)
        self._running.add(task)

    async def _do(self, subtask: Subtask, agent: Agent, log: Log, attempt: int | None) -> None:
        """An attempt; `attempt` is its number where it has begun already."""
        try:
            ended = await self._attempt(subtask, agent, log, attempt)
        finally:
            agent.end()
        telling = asyncio.create_task(self._tell(log, ended))
        self._begin_ready(log)  # an agent needn't wait until this is written: its next event comes behind it
        await telling

    async def _attempt(self, subtask: Subtask, agent: Agent, log: Log, attempt: int | None) -> SubtaskEnded:
        entry = self._board.entries[subtask.id]
        if attempt is None:
            attempt = entry.begun + 1
            await self._tell(log, SubtaskBegan(subtask=subtask.id, agent=agent.id, attempt=attempt))
        errand = Errand(
            id=f"{self._name}-{hashlib.sha256(subtask.id.encode()).hexdigest()[:12]}-{attempt}",
            subtask=subtask,
            agent=agent.spec,
            attempt=attempt,
            causes=tuple(entry.causes),
            inputs=self._board.inputs(subtask),
            folder=self._folder,
        )
        outcome = await self._executor.run(errand, agent.work)
        return SubtaskEnded(
            subtask=subtask.id,
            agent=agent.id,
            attempt=attempt,
            success=outcome.success,
            result=outcome.result,
            cause=outcome.cause,
        )

    async def _tell(self, log: Log, event: Event) -> None:
        await log.append(event)
        self._board.apply(event)
        self._on_progress(self._board.progress)
