"""`AgentCluster`: has a task split, and its agents do the sub-tasks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

from minimax_code.clusters.agent import Agent
from minimax_code.clusters.board import Board
from minimax_code.clusters.config import ClusterConfig
from minimax_code.clusters.decomposition import given
from minimax_code.clusters.errand import Work
from minimax_code.clusters.executor import Executor, LocalExecutor
from minimax_code.clusters.files import diffs_of, merged
from minimax_code.clusters.on_ray import RayExecutor
from minimax_code.clusters.progress import Progress
from minimax_code.clusters.router import TaskRouter
from minimax_code.clusters.run import OnProgress, Run
from minimax_code.clusters.subtask import Subtask, SubtaskResult
from minimax_code.clusters.task import do_task
from minimax_code.clusters.workers import WorkersExecutor
from minimax_code.errors import InputError
from minimax_code.events import Log, TaskEnded
from minimax_code.jobs.launch import STORE
from minimax_code.jobs.worker import LEASE_S, Assignment, work_on
from minimax_code.model import Model
from minimax_code.skills.prompt import prompt_of
from minimax_code.store import Store, default_url
from minimax_code.work.strategy import Wanted, check_strategy

QUEUE = "clusters"
"""The store's queue of runs."""

Where = Literal["local", "workers", "ray"]
EXECUTORS: tuple[Where, ...] = get_args(Where)
_REQUIRED = ("id", "name", "role", "capabilities")
_OPTIONAL = ("model", "max_concurrent", "strategy")


class AgentCluster:
    """Agents who share the sub-tasks of a task.

        cluster = AgentCluster({"max_retries": 2}, folder="shop")
        cluster.initialize_agents([{"id": "py", "name": "Ada", "role": "Engineer", "capabilities": ["python"]}])
        results = cluster.execute_parallel(cluster.decompose_task("Add a discount to the cart"))

    Everything that happens is written into a store first. So a run whose process has died goes on with `resume`.

    Args:
        config: as of `ClusterConfig`; a name that isn't known is refused.
        model: who splits tasks; None: the model of the server that the environment names.
        folder: the files to work on, which stay as they are; None to begin with nothing.
        strategy: "agent", "pipeline" or "auto", as of `MiniMaxCode`, for agents whose specification has none.
        work: how agents do sub-tasks, where not as tasks of their own.
        executor: where they are done: in this process, by workers (`minimax-code worker`), or on a Ray cluster.
        ray: its address, `HOST:PORT`, or "auto" for the one that this machine is in; None: one of this machine alone.
        store: where runs are kept; else MINIMAX_CODE_STORE, or the user's own file. Workers need the same one.
        on_progress: called after each change. What it raises ends the run, which can be resumed.

    Attributes:
        job: the store's id of the last run.

    Raises:
        InputError: an argument can't be used.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        *,
        model: Model | None = None,
        folder: str | os.PathLike[str] | None = None,
        strategy: Wanted = "auto",
        work: Work = do_task,
        executor: Where = "local",
        ray: str | None = None,
        store: str | None = None,
        on_progress: OnProgress = lambda _: None,
    ) -> None:
        self.config = ClusterConfig.of(config or {})
        self.agents: list[Agent] = []
        self.task_router = TaskRouter(model)
        self.executor: Where = executor
        self.job: str | None = None
        self._ray, self._strategy = ray, strategy
        self._folder = None if folder is None else Path(folder).resolve()
        self._work, self._store_url, self._on_progress = (
            work,
            store or os.environ.get(STORE) or default_url(),
            on_progress,
        )
        self._board: Board | None = None
        if self._folder is not None and not self._folder.is_dir():
            raise InputError("folder", f"{self._folder} is not there")
        check_strategy(strategy)
        if executor not in EXECUTORS:
            raise InputError("executor", f"{executor!r} is not known; there are {', '.join(EXECUTORS)}")
        if ray is not None and executor != "ray":
            raise InputError("ray", f"is the address for executor='ray', not for {executor!r}")
        if executor == "workers" and work is not do_task:
            raise InputError("work", "is the workers' own here; give it to them: minimax-code worker --work")

    @property
    def progress(self) -> Progress | None:
        """Of the last run; None before the first."""
        return self._board.progress if self._board else None

    @property
    def diff(self) -> str:
        """The changes of all sub-tasks of the last run that succeeded, as one.

        Raises:
            WorkspaceError: two of them don't go together; it names the second.
        """
        return asyncio.run(self._merged()) if self._board else ""

    def initialize_agents(self, agent_specs: Sequence[Mapping[str, Any]]) -> list[Agent]:
        """Adds agents.

        Args:
            agent_specs: of each `id`, `name`, `role` and `capabilities`; where wanted `model`, `max_concurrent` and
                `strategy`.

        Raises:
            InputError: one of them can't be used, or there are too many; none was added.
        """
        added = [self._agent(f"agents.{i}", spec) for i, spec in enumerate(agent_specs)]
        agents = [*self.agents, *added]
        if len(agents) > self.config.max_agents:
            raise InputError("agents", f"{len(agents)} are more than the {self.config.max_agents} of config.max_agents")
        if double := {agent.id for agent in agents if sum(agent.id == other.id for other in agents) > 1}:
            raise InputError("agents", f"the id {min(double)!r} is there twice")
        self.agents = agents
        self.task_router.capabilities = [name for agent in agents for name in agent.capabilities]
        return added

    def decompose_task(self, task: str) -> list[dict[str, Any]]:
        """Splits a task into sub-tasks that the agents know about; `task_router.notes` says what had to be repaired.

        Raises:
            InputError: there are no agents.
            ModelError: the model can't be asked, or never gives a list of sub-tasks.
        """
        known = sorted({name for agent in self._team() for name in agent.capabilities})
        prompt = prompt_of("decompose", "minimax_code.clusters", task=task.strip(), capabilities=", ".join(known))
        return [subtask.model_dump(mode="json") for subtask in asyncio.run(self.task_router.decomposed(prompt))]

    def execute_parallel(self, tasks: Sequence[Mapping[str, Any] | Subtask]) -> list[SubtaskResult]:
        """Does sub-tasks, each as soon as those that it depends on are done; returns what came of each, in their order.

        Raises:
            InputError: one of them can't be used, or there are no agents.
            CodeError: the run can't go on now; see `resume`.
        """
        return asyncio.run(self.run(tasks))

    def resume(self, job: str) -> list[SubtaskResult]:
        """Goes on with a run whose process has ended. What was done stays done; what was interrupted begins again.

        Raises:
            InputError: there is no such run.
            LeaseError: its process is alive.
            CodeError: as `execute_parallel`.
        """
        return asyncio.run(self.resumed(job))

    async def run(self, tasks: Sequence[Mapping[str, Any] | Subtask]) -> list[SubtaskResult]:
        """`execute_parallel` for programs with an event loop of their own."""
        subtasks = given(tasks)
        self._team()
        if not subtasks:
            return []
        frequency = self.config.checkpoint_frequency
        spec = {
            "subtasks": [subtask.model_dump(mode="json") for subtask in subtasks],
            "checkpoint_hours": frequency and frequency / 3600,
        }
        store = Store(self._store_url)
        try:
            self.job = await asyncio.to_thread(store.create, spec, queue=QUEUE)
            return await self._to_end(store, self.job)
        finally:
            store.close()

    async def resumed(self, job: str) -> list[SubtaskResult]:
        """`resume` for programs with an event loop of their own."""
        self._team()
        store = Store(self._store_url)
        try:
            row = store.job(job)
            if row.queue != QUEUE:
                raise InputError("job", f"{job} is no run of a cluster")
            self.job = job
            await asyncio.to_thread(store.wish, job, "run")  # an error may have paused it
            if row.outcome is not None:
                self._board = self._new_board(row.spec)
                for one in store.events(job):
                    self._board.apply(one.event)
                return self._board.results()
            return await self._to_end(store, job)
        finally:
            store.close()

    async def _to_end(self, store: Store, job: str) -> list[SubtaskResult]:
        executor = self._new_executor(store, job)
        try:
            lease = await asyncio.to_thread(store.lease, job, f"{os.uname().nodename}-{os.getpid()}", LEASE_S)
            await work_on(store, lease, lambda assignment, log: self._do(assignment, log, executor))
        finally:
            await executor.close()
        assert self._board
        return self._board.results()

    async def _do(self, assignment: Assignment, log: Log, executor: Executor) -> None:
        board = self._board = self._new_board(assignment.spec)
        run = Run(
            assignment.job,
            board,
            agents=self.agents,
            router=self.task_router,
            executor=executor,
            at_once=1 if self.config.execution_mode == "sequential" else None,
            folder=None if self._folder is None else str(self._folder),
            on_progress=self._on_progress,
        )
        await run.to_end(log)
        results = board.results()
        successes = {one["success"] for one in results}
        state = {frozenset({True}): "passed", frozenset({False}): "failed"}.get(frozenset(successes), "partial")
        await log.append(TaskEnded(result={"state": state, "subtasks": results}))

    async def _merged(self) -> str:
        assert self._board
        with TemporaryDirectory(prefix="minimax-code-") as name:
            async with await merged(self._folder, diffs_of(self._board.done()), Path(name) / "merged") as workspace:
                return (await workspace.patch()).decode(errors="replace")

    def _new_board(self, spec: Mapping[str, Any]) -> Board:
        return Board([Subtask.model_validate(one) for one in spec["subtasks"]], self.config.attempts)

    def _new_executor(self, store: Store, job: str) -> Executor:
        match self.executor:
            case "workers":
                return WorkersExecutor(store, job)
            case "ray":
                return RayExecutor(self._ray)
            case "local":
                return LocalExecutor()

    def _team(self) -> list[Agent]:
        if not self.agents:
            raise InputError("agents", "there are none yet; call initialize_agents first")
        return self.agents

    def _agent(self, field: str, spec: Mapping[str, Any]) -> Agent:
        for name in spec:
            if name not in (*_REQUIRED, *_OPTIONAL):
                near = get_close_matches(str(name), (*_REQUIRED, *_OPTIONAL), n=1) or [", ".join(_REQUIRED)]
                raise InputError(f"{field}.{name}", f"is not understood; there is {near[0]}")
        if missing := [name for name in _REQUIRED if name not in spec]:
            raise InputError(f"{field}.{missing[0]}", "is missing")
        options = {"strategy": self._strategy, **{name: spec[name] for name in _OPTIONAL if name in spec}}
        if "max_concurrent" in options:
            options["max_concurrent_tasks"] = options.pop("max_concurrent")
        try:
            return Agent(*(spec[name] for name in _REQUIRED), **options, work=self._work)
        except InputError as error:
            raise InputError(f"{field}.{error.field}", error.message) from error
