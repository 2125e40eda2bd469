"""A conversation in an editor: each prompt is a job of the store, and the user is asked before anything is applied."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from acp import start_tool_call, update_agent_message_text, update_tool_call, update_user_message_text
from acp.schema import PermissionOption, PermissionOptionKind, StopReason, ToolCallStatus, ToolCallUpdate

from minimax_code.editor.updates import Updates
from minimax_code.errors import InputError, WorkspaceError
from minimax_code.events import Recorded
from minimax_code.jobs import Job
from minimax_code.jobs.here import Follower, place_of, work_here
from minimax_code.jobs.spec import JobSpec
from minimax_code.model import Model
from minimax_code.permissions import Answer, Question
from minimax_code.store import Store
from minimax_code.tools.mcp import McpServer, mcp_tools
from minimax_code.work.result import TaskResult
from minimax_code.workbench.landing import apply_patch

if TYPE_CHECKING:
    from acp import Client
    from acp.helpers import SessionUpdate

COMMANDS = {
    "apply": "Offer the change of the last task again, to be applied to your files",
    "resume": "Go on with the last task where it was interrupted",
}
"""What a prompt may begin with, behind a `/`."""
_EARLIER = "\n\nEarlier in this conversation you were asked:\n"

SpecOf = Callable[[str, Path, Sequence[McpServer]], JobSpec]
"""The job that a description becomes, on a folder and with servers of tools."""


class Session:
    """A conversation about a folder. Its jobs are named after it and numbered, so the store has all of it.

    Args:
        servers: of tools, which the editor has named.
        client: the editor.
    """

    def __init__(
        self,
        id: str,
        folder: Path,
        servers: Sequence[McpServer],
        *,
        store: Store,
        model: Model,
        spec_of: SpecOf,
        client: Client,
    ) -> None:
        self.id, self.folder = id, folder
        self._servers, self._store, self._model, self._spec_of, self._client = servers, store, model, spec_of, client
        self._working: asyncio.Task[StopReason] | None = None

    @property
    def jobs(self) -> list[str]:
        """Of its prompts, the oldest first."""
        mine = [row.id for row in self._store.jobs() if row.id.startswith(f"{self.id}-")]
        return sorted(mine, key=lambda job: int(job.rpartition("-")[2]))

    async def prompt(self, text: str) -> StopReason:
        """Does what the user says; whatever ends the work, the editor has been told of it.

        Raises:
            InputError: it is empty, a command that isn't there, or another prompt is being worked on.
            CodeError: what ended the work.
        """
        if self._working and not self._working.done():
            raise InputError("prompt", "another one is being worked on; cancel it first")
        self._working = asyncio.create_task(self._answer(text.strip()))
        try:
            return await self._working
        except asyncio.CancelledError:
            if self._working.cancelled() and not _is_being_cancelled():
                return "cancelled"
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)
            raise

    def cancel(self) -> None:
        """Ends the work on a prompt; `/resume` goes on with it."""
        if self._working:
            self._working.cancel()

    async def replay(self) -> None:
        """Shows the editor all that has been said and done."""
        for job in self.jobs:
            await self._show(update_user_message_text(prompt_of(self._store, job)))
            updates = self._updates(job)
            for recorded in self._store.events(job):
                for update in await updates.of(recorded):
                    await self._show(update)

    async def _answer(self, text: str) -> StopReason:
        if not text:
            raise InputError("prompt", "is empty; say what is to be done")
        if text.startswith("/") and (name := text[1:].split()[0]) not in COMMANDS:
            raise InputError("prompt", f"there is no command /{name}; there are /{' and /'.join(COMMANDS)}")
        if not text.startswith("/"):
            earlier = "\n".join(f"- {prompt_of(self._store, job)}" for job in self.jobs)
            spec = self._spec_of(f"{text}{_EARLIER}{earlier}" if earlier else text, self.folder, self._servers)
            number = len(self.jobs) + 1
            return await self._work(self._store.create(spec.model_dump(mode="json"), job=f"{self.id}-{number}"))
        if not self.jobs:
            raise InputError("prompt", f"{text}: there is no task yet")
        last = Job(self._store, self.jobs[-1])
        if text == "/apply":
            await self._offer(last.id, last.get_results())
            return "end_turn"
        last.reopen()
        return await self._work(last.id)

    async def _work(self, job: str) -> StopReason:
        updates = self._updates(job)

        async def tell(recorded: Recorded) -> None:
            for update in await updates.of(recorded):
                await self._show(update)

        async def ask(question: Question) -> Answer:
            await follower.catch_up()  # so that the editor knows the call
            call = ToolCallUpdate(tool_call_id=updates.id_of(question.agent), title=str(question))
            always = f"From now on: {question.rule}"
            match await self._ask(call, allow_once="Allow", allow_always=always, reject_once="Refuse"):
                case "allow_once":
                    return Answer(allowed=True)
                case "allow_always":
                    return Answer(allowed=True, rule=question.rule)
                case _:
                    return Answer(allowed=False)

        follower = Follower(self._store, job, tell)
        async with mcp_tools(self._servers) as tools, follower.following():
            await work_here(self._store, job, model=self._model, ask=ask, tools=tools)
        result = Job(self._store, job).get_results()
        if result.diff:
            await self._offer(job, result)
        return "max_turn_requests" if result.state == "budget" else "end_turn"

    async def _offer(self, job: str, result: TaskResult) -> None:
        """Asks whether a change is to be applied. Nobody's files change without a yes."""
        if not result.diff:
            raise InputError("prompt", "/apply: the last task has changed nothing")
        updates = self._updates(job)
        count = len(result.deliverables)
        title = f"Apply the change to {count} file{'s' * (count > 1)}{'' if result.success else ', not proved'}"
        content, call = await updates.change(None, result.tree), f"{job}/apply"
        await self._show(start_tool_call(call, title, kind="edit", status="pending", content=content))
        question = ToolCallUpdate(tool_call_id=call, title=title, content=content)
        chosen = await self._ask(question, allow_once="Apply to my files", reject_once="Leave my files as they are")
        status: ToolCallStatus = "completed"
        said = f"Your files are as they were; `/apply` or `minimax-code apply {job}` changes them."
        if chosen == "allow_once":
            try:
                said = f"Applied: {', '.join(await apply_patch(result.diff.encode(), self.folder))}."
            except WorkspaceError as error:
                status, said = "failed", f"{error}. Your files are as they were; `/apply` tries again."
        await self._show(update_tool_call(call, status=status))
        await self._show(update_agent_message_text(f"\n\n{said}"))

    async def _ask(self, call: ToolCallUpdate, **names: str) -> str | None:
        """The kind of what the user chooses, by kind and name; None where the question was put away."""
        offered = [
            PermissionOption(option_id=kind, kind=cast(PermissionOptionKind, kind), name=names[kind]) for kind in names
        ]
        answer = await self._client.request_permission(session_id=self.id, tool_call=call, options=offered)
        return answer.outcome.option_id if answer.outcome.outcome == "selected" else None

    async def _show(self, update: SessionUpdate) -> None:
        await self._client.session_update(session_id=self.id, update=update)

    def _updates(self, job: str) -> Updates:
        return Updates(job, self.folder, partial(place_of, self._store, job))


def prompt_of(store: Store, job: str) -> str:
    """What the user has said for a job."""
    task = JobSpec.model_validate(store.job(job).spec, strict=False).task
    return str(task["description"]).partition(_EARLIER)[0]


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return bool(task and task.cancelling())
