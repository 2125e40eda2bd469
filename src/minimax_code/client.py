"""The client: tasks, projects, jobs and reviews, for programs that don't speak asyncio."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

from minimax_code.budget import Price
from minimax_code.errors import InputError, ModelError, SandboxError
from minimax_code.jobs import Job
from minimax_code.jobs.here import place_of, work_here
from minimax_code.jobs.launch import STORE
from minimax_code.jobs.spec import JobSpec
from minimax_code.loop import Loop
from minimax_code.permissions import Answer, Permissions, Question, asker_of
from minimax_code.project import QUEUE as PROJECTS
from minimax_code.project import Project, Workflow, id_of, project_spec
from minimax_code.remote import ServerModel
from minimax_code.review.posting import review_pull_request
from minimax_code.review.result import Review
from minimax_code.store import Store, default_url
from minimax_code.tools.mcp import mcp_tools, servers_of
from minimax_code.work.agent import Agent
from minimax_code.work.progress import Progress
from minimax_code.work.result import TaskResult
from minimax_code.work.strategy import Wanted, check_strategy
from minimax_code.work.task import Task
from minimax_code.workbench.interpreter import python_of

Mode = Literal["autonomous", "interactive"]


class MiniMaxCode:
    """Agents that work on copies of your files and prove what they claim.

        code = MiniMaxCode(folder="shop")
        result = code.execute(Task(description="Mend the rounding", checks=["pytest tests/test_cart.py"]))
        print(result.success, result.diff)

    Args:
        api_key, base_url, model: as of `minimax.MiniMaxM3`: else those of the environment, else a local server.
        mode: "autonomous": nobody is asked. What would need a question ends a task with the state "needs_input".
            "interactive": `ask` is asked, but for jobs of `start_autonomous_task`.
        folder: what the agents work on copies of; None to begin with nothing. It is never written to.
        store: where jobs are kept: a file, or a `postgresql://` URL; else MINIMAX_CODE_STORE, or a file in
            the platform's data folder.
        rules: permissions, such as "deny bash(curl *)".
        ask: what is asked where a rule says so, or a tool reaches beyond the agent's files: it is given a `Question`,
            and returns whether it is allowed, or an `Answer` with a rule that goes on to hold.
        mcp: servers of tools by name, as the settings have them: {"tickets": {"command": ["tickets-server"]}}.
        price: what the model costs, for tasks whose budget is money.
        context_tokens: the model's window, for a server that doesn't say.
        strategy: "agent": the model drives a loop of tool calls; "pipeline": our code drives, and a small model fills
            in; "auto": what a calibration of the model says, made when it is first used and kept.
        python: the interpreter that has what the folder's code needs; by default that of its `.venv`, or this one.

    Raises:
        InputError: an argument can't be used.
    """

    def __init__(
        self,
        api_key: str | None = None,
        mode: Mode = "autonomous",
        *,
        base_url: str | None = None,
        model: str | None = None,
        folder: str | Path | None = None,
        store: str | None = None,
        rules: Sequence[str] = (),
        ask: Callable[[Question], Answer | bool] | None = None,
        mcp: Mapping[str, Mapping[str, Any]] = {},
        price: Price | None = None,
        context_tokens: int | None = None,
        strategy: Wanted = "auto",
        python: str | Path | None = None,
    ) -> None:
        if mode not in get_args(Mode) or (mode == "interactive") != (ask is not None):
            raise InputError("mode", f"{mode!r} can't be used; it is 'interactive' with `ask`, and else 'autonomous'")
        if folder is not None and not Path(folder).is_dir():
            raise InputError("folder", f"{folder} is no folder")
        check_strategy(strategy)
        self._folder = None if folder is None else Path(folder).resolve()
        self._api_key, self._rules, self._price, self._strategy = api_key, tuple(rules), price, strategy
        self._ask, self._servers = asker_of(ask) if ask else None, servers_of(mcp)
        Permissions.of(*self._rules)  # what is no rule is refused now
        own = python_of(self._folder, None if python is None else str(python))
        self._python = None if own == sys.executable else own  # which another version of us may not have
        self._address: dict[str, Any] = {"base_url": base_url, "model": model, "context_tokens": context_tokens}
        self._model = ServerModel(base_url, api_key, model, context_tokens=context_tokens)
        self._store = Store(store or os.environ.get(STORE) or default_url())
        self._loop = Loop()
        self._projects: dict[str, Project] = {}

    def execute(self, task: Task) -> TaskResult:
        """Does a task, in this process; whatever ends the work, the result says how far it came.

        Raises:
            InputError: the task has limits that can't be held.
            StoreError: the job can't be written down.
        """
        return self._loop.run(self._do(task, self._folder))[0]

    def create_project(
        self, name: str, description: str, agents: Sequence[Agent], workflow: Workflow = "sequential"
    ) -> Project:
        """A project whose phases build on each other ("sequential") or are worked on side by side ("parallel").

        If it was made before, by this process or another, it is opened and goes on.

        Raises:
            InputError: an argument can't be used, or there is another project of this name on this folder.
            LeaseError: another process has it open.
        """
        spec = project_spec(name, description, agents, workflow, self._folder)
        id = self._store.create(spec, queue=PROJECTS, job=id_of(name, self._folder))
        if self._store.job(id).spec != spec:
            raise InputError("name", f"there is another project {name!r} on this folder; open_project goes on with it")
        return self._opened(id)

    def open_project(self, name: str) -> Project:
        """A project that was made before. Phases that a crash or the end of a process has cut short go on at once.

        Raises:
            InputError: there is none of this name on the client's folder.
            LeaseError: another process has it open.
        """
        id = id_of(name, self._folder)
        if id not in (row.id for row in self._store.jobs(PROJECTS)):
            raise InputError("name", f"there is no project {name!r} on this folder; create_project makes it")
        return self._opened(id)

    def start_autonomous_task(self, task: Task) -> Job:
        """Starts a job that goes on in processes of its own, after this one has ended and after crashes.

        Raises:
            InputError: the task has limits that can't be held.
            StoreError: the job can't be written down, or no worker started.
        """
        spec = self._spec(task, self._folder)
        env = {server.name: server.env for server in self._servers}
        return Job.start(
            self._store, spec, api_key=self._api_key, mcp_env=env, notification_callback=task.notification_callback
        )

    def review_pr(self, repo_url: str, pr_number: int, config: Mapping[str, Any] | None = None) -> Review:
        """Reviews a pull request of GitHub; nothing is posted.

        The model reads it if it can judge, which a short examination says that is made once for each model. Whether
        it did is in the review's `read_by_model`.

        Raises:
            InputError: an argument can't be used.
            WorkspaceError: the repository can't be had.
            ModelError: the model can't be reached.
        """
        return self._loop.run(review_pull_request(repo_url, pr_number, config, model=self._model))[0]

    def close(self) -> None:
        """Ends the connections, and what is still being worked on; jobs can be resumed."""
        self._loop.run(self._model.close())
        self._loop.close()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self, id: str) -> Project:
        project = self._projects.get(id)
        if project is None or not project.is_open:
            python = self._python or sys.executable
            project = self._projects[id] = Project(id, store=self._store, do=self._do, loop=self._loop, python=python)
        return project

    def _spec(self, task: Task, folder: Path | None) -> JobSpec:
        if task.mode == "interactive" and self._ask is None:
            raise InputError("mode", "'interactive' needs a client that has `ask`")
        where = None if folder is None else str(folder)
        return JobSpec.of(
            task, folder=where, rules=self._rules, servers=self._servers, price=self._price, strategy=self._strategy,
            python=self._python,
            **self._address,
        )  # fmt: skip

    async def _do(self, task: Task, folder: Path | None, job: str | None = None) -> tuple[TaskResult, Path]:
        """What comes of a task, and the place where its files are. A job that has begun already is gone on with."""
        job = self._store.create(self._spec(task, folder).model_dump(mode="json"), job=job)
        handle = Job(self._store, job)
        if handle.has_result:
            return handle.get_results(), place_of(self._store, job)
        self._store.wish(job, "run")  # an error may have paused it
        try:
            async with mcp_tools(self._servers) as tools:
                await work_here(self._store, job, model=self._model, ask=self._ask, tools=tools)
        except (ModelError, SandboxError) as error:
            return _cut_short(Progress.of(self._store.events(job)), job, error), place_of(self._store, job)
        return handle.get_results(), place_of(self._store, job)


def _cut_short(progress: Progress, job: str, error: Exception) -> TaskResult:
    """What is known of a task that something outside has ended."""
    checked = progress.checked
    return TaskResult(
        state="crashed_resumable",
        strategy=progress.strategy,
        tree=checked.tree if checked else progress.base,
        contract=progress.contract,
        receipts=checked.receipts if checked else (),
        issues=(str(error), f"`minimax-code jobs resume {job}` goes on with it"),
    )
