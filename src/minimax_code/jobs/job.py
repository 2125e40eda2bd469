"""A job as its user has it: from the process that started it, or from any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from minimax_code.errors import StoreError
from minimax_code.events import Recorded
from minimax_code.jobs.launch import launch
from minimax_code.jobs.spec import JobSpec
from minimax_code.jobs.status import JobStatus, Standing
from minimax_code.jobs.teller import Teller
from minimax_code.jobs.update import Update
from minimax_code.store import Store
from minimax_code.work.result import TaskResult
from minimax_code.work.task import Task


class Job:
    """A handle; the job goes on without it.

    Args:
        store: where it is kept.
        id: of the job.
        api_key: given to workers that this handle starts, in their environment; it is never stored.
        mcp_env: the same for the environments of the job's servers of tools, by their names.
        notification_callback: called in this process with each `Update`, at least once; what an earlier process was
            told is not told again.

    Raises:
        InputError: the store has no such job.
        StoreError: the store can't be read; so for all methods.
    """

    def __init__(
        self,
        store: Store,
        id: str,
        *,
        api_key: str | None = None,
        mcp_env: Mapping[str, Mapping[str, str]] | None = None,
        notification_callback: Callable[[Update], object] | None = None,
    ) -> None:
        self.id = id
        self._store, self._api_key, self._mcp_env = store, api_key, mcp_env
        self._standing = Standing(id)
        self._store.job(id)
        self._teller = Teller(store, id, notification_callback) if notification_callback else None
        if self._teller:
            self._teller.start()

    @classmethod
    def start(cls, store: Store, spec: JobSpec, **handle: Any) -> Job:
        """Writes a job down and starts a worker for it; `handle` are arguments of `Job`."""
        job = cls(store, store.create(spec.model_dump(mode="json")), **handle)
        job._launch()
        return job

    @property
    def is_complete(self) -> bool:
        """Whether it has ended, in whatever state. One that was paused or whose worker is gone hasn't."""
        return self._store.job(self.id).has_ended

    @property
    def has_result(self) -> bool:
        """Whether it is a task that has ended by itself: one that was cancelled has no result."""
        standing = self._read()
        return standing.has_ended and standing.work.result is not None

    def get_status(self) -> JobStatus:
        """How it stands."""
        row, standing = self._store.job(self.id), self._read()
        issues = list(standing.issues)
        if row.state == "crashed_resumable" and standing.worker:
            issues.append(f"{standing.worker} is gone; `minimax-code jobs resume {self.id}` goes on")
        return JobStatus(
            state=row.state,
            current_phase=standing.phase,
            progress=standing.progress,
            tasks_completed=standing.steps_done,
            tasks_total=len(standing.work.steps),
            issues=tuple(issues),
            tree=standing.tree,
            model_calls=standing.model_calls,
            tokens=standing.tokens,
            worked=timedelta(seconds=row.worked_s),
            can_move=self._store.can_move(self.id),
            updated_at=standing.updated_at,
        )

    def events(self, after: int = 0) -> list[Recorded]:
        """Everything that has happened after the event of this number."""
        return self._store.events(self.id, after)

    def pause(self) -> None:
        """Stops it once what it is doing has ended; nothing is lost."""
        self._wish("pause")

    def resume(self, *, budget: str | None = None, time: str | None = None) -> None:
        """Lets it go on, also where it had ended for want of something, with a new worker unless a living one has it.

        Args:
            budget, time: on top of what its task was allowed ("50 API calls", "30 minutes"), once that is used up.

        Raises:
            InputError: they can't be read, or the task has no such limit.
            StoreError: it can't go on: it was cancelled or is done, or is no task, which whoever started it resumes.
        """
        self.reopen(budget=budget, time=time)
        self._launch()

    def reopen(self, *, budget: str | None = None, time: str | None = None) -> None:
        """The same without a worker: the caller does the work."""
        if "task" not in self._store.job(self.id).spec:
            raise StoreError(f"{self.id} is no task; the program that started it resumes it")
        if self.has_result and not self.get_results().is_final:
            self._store.reopen(self.id, self._allowed(budget, time))
        elif budget or time:
            state = self._store.job(self.id).state
            raise StoreError(f"{self.id} is {state}: more is given to a job that has used up what it was allowed")
        else:
            self._wish("run")

    def cancel(self) -> None:
        """Ends it for good, in the middle of what it is doing."""
        self._wish("cancel")

    def get_results(self) -> TaskResult:
        """What came of it. Its callback, if there is one, has been told of the end by then.

        Raises:
            StoreError: it hasn't ended, or was cancelled, or is no task, so that there is no result.
        """
        standing = self._read()
        if not standing.has_ended or standing.work.result is None:
            raise StoreError(f"{self.id} is {self._store.job(self.id).state}: it has no result")
        if self._teller:
            self._teller.join(timeout=10)
        return standing.work.result

    def _allowed(self, budget: str | None, time: str | None) -> dict[str, Any]:
        """What it is to do, with more to do it with."""
        spec = dict(self._store.job(self.id).spec)
        task = Task(**spec["task"]).with_more(budget=budget, time=time)
        return spec | {"task": task.model_dump(mode="json")}

    def _launch(self) -> None:
        launch(self._store.url, self.id, self._api_key, self._mcp_env)

    def _read(self) -> Standing:
        self._standing.read(self._store.events(self.id, self._standing.seq))
        return self._standing

    def _wish(self, wish: Any) -> None:
        row = self._store.job(self.id)
        if row.has_ended and wish != "cancel":
            raise StoreError(f"{self.id} is {row.state}: it can't be changed any more")
        self._store.wish(self.id, wish)
