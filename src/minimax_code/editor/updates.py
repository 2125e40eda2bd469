"""What an editor shows of a job: its events, as updates of the Agent Client Protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from acp import (
    plan_entry,
    start_tool_call,
    text_block,
    tool_content,
    tool_diff_content,
    update_agent_message_text,
    update_agent_thought_text,
    update_plan,
    update_tool_call,
)
from acp.helpers import SessionUpdate, ToolCallContentVariant
from acp.schema import PlanEntryStatus, ToolCallLocation, ToolCallStatus, ToolKind

from minimax_code import events as e
from minimax_code.errors import WorkspaceError
from minimax_code.model import ToolCall
from minimax_code.phrases import call_phrase, line_of, phrase, printable
from minimax_code.work.progress import WORKER
from minimax_code.work.result import TaskResult
from minimax_code.workbench.workspace import Workspace

_STATES: dict[str, PlanEntryStatus] = {"todo": "pending", "doing": "in_progress", "done": "completed"}
_KINDS: dict[str, ToolKind] = {
    "read": "read", "write": "edit", "edit": "edit", "search": "search", "bash": "execute", "delegate": "think",
}  # fmt: skip
_MOST_FILES, _MOST_BYTES = 20, 200_000  # of a change that is shown


class Updates:
    """The fold over a job's events. It may be fed as they come, or with those of a job that has ended.

    Paths are shown as those of the user's own files, which stay as they are: so an editor can open them.

    Args:
        folder: the user's.
        place: says where the job's files are, once somebody has begun with them.
    """

    def __init__(self, job: str, folder: Path, place: Callable[[], Path]) -> None:
        self._job, self._folder, self._place = job, folder, place
        self._calls: dict[tuple[str, str], ToolCall] = {}  # by agent and their own id, which is no more than that
        self._begun: dict[tuple[str, str], tuple[str, str]] = {}  # our id, and the tree before

    async def of(self, recorded: e.Recorded) -> list[SessionUpdate]:
        """What there is to show of an event."""
        event = recorded.event
        match event:
            case e.PlanChanged(agent=agent, steps=steps) if agent == WORKER:
                return [update_plan([plan_entry(line_of(step.text), status=_STATES[step.state]) for step in steps])]
            case e.ModelReplied(agent=agent, reply=reply):
                self._calls |= {(agent, call.id): call for call in reply.calls}
                if agent == WORKER and reply.content.strip():
                    return [update_agent_message_text(f"{_text(reply.content)}\n\n")]
                return []
            case e.PermissionAsked(agent=agent, call_id=call_id) if call := self._calls.get((agent, call_id)):
                return self._begin(recorded.seq, agent, call, "")
            case e.ToolIntended(agent=agent, call=call, tree=tree):
                return self._begin(recorded.seq, agent, call, tree)
            case e.ToolEnded():
                return await self._end(recorded.seq, event)
            case e.TaskEnded(result=result):
                return [update_agent_message_text(_text(str(TaskResult.model_validate(result, strict=False))))]
            case e.StrategyChosen() | e.ContractFrozen() | e.Checked() | e.Verified() | e.StuckSeen() | e.Compacted():
                return [update_agent_thought_text(f"{phrase(event)}\n\n")]
            case _:
                return []

    def id_of(self, agent: str) -> str:
        """Our id of the call that an agent has begun last, such as one that it asks for."""
        return next((ours for (name, _), (ours, _) in reversed(self._begun.items()) if name == agent), self._job)

    async def change(self, old: str | None, new: str) -> list[ToolCallContentVariant]:
        """From one tree (what the job began with) to another, file by file. What is no text or too much is named."""
        try:
            workspace = await Workspace.open(self._place())
        except WorkspaceError:  # another machine has it, or somebody has removed it
            return []
        shown: list[ToolCallContentVariant] = []
        left_out: list[str] = []
        for path in await workspace.changed_files(old, new):
            before, after = await workspace.read(old or workspace.base, path), await workspace.read(new, path)
            if len(shown) == _MOST_FILES or not (_is_shown(before) and _is_shown(after)):
                left_out.append(path)
                continue
            text = None if before is None else before.decode()
            shown.append(tool_diff_content(str(self._folder / path), (after or b"").decode(), text))
        if left_out:
            shown.append(_words(f"also changed, and not shown: {', '.join(left_out)}"))
        return shown

    def _begin(self, seq: int, agent: str, call: ToolCall, tree: str) -> list[SessionUpdate]:
        if call.name == "plan":  # the plan itself is shown
            return []
        waits = not tree
        if known := self._begun.get((agent, call.id)):
            self._begun[agent, call.id] = known[0], tree
            return [update_tool_call(known[0], status="in_progress")]
        ours = f"{self._job}/{seq}"
        self._begun[agent, call.id] = ours, tree
        arguments = _arguments(call)
        return [
            start_tool_call(
                ours,
                f"{'' if agent == WORKER else f'{agent}: '}{call_phrase(call)}",
                kind=_KINDS.get(call.name, "other"),
                status="pending" if waits else "in_progress",
                locations=self._locations(arguments),
                raw_input=arguments,
            )
        ]

    async def _end(self, seq: int, event: e.ToolEnded) -> list[SessionUpdate]:
        key = event.agent, event.call_id
        call, updates = self._calls.get(key), list[SessionUpdate]()
        if key not in self._begun and call:  # it was refused
            updates += self._begin(seq, event.agent, call, "")
        if key not in self._begun:
            return []
        ours, before = self._begun.pop(key)
        content = await self.change(before, event.tree) if before and event.tree and before != event.tree else []
        if event.failed or not content:  # that a file is written is said by what it is now
            content = [*content, _words(event.output)]
        status: ToolCallStatus = "failed" if event.failed else "completed"
        return [*updates, update_tool_call(ours, status=status, content=content)]

    def _locations(self, arguments: Any) -> Sequence[ToolCallLocation] | None:
        path = arguments.get("path") if isinstance(arguments, dict) else None
        if not isinstance(path, str) or Path(path).is_absolute() or ".." in Path(path).parts:
            return None
        line = arguments.get("start")
        place = str(self._folder / path)
        return [ToolCallLocation(path=place, line=line if isinstance(line, int) and line > 0 else None)]


def _arguments(call: ToolCall) -> Any:
    try:
        return json.loads(call.arguments)
    except ValueError:  # a model wrote it
        return call.arguments


def _text(text: str) -> str:
    return "\n".join(map(printable, text.splitlines()))


def _words(text: str) -> ToolCallContentVariant:
    return tool_content(text_block(_text(text)))


def _is_shown(content: bytes | None) -> bool:
    if content is None:
        return True
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return len(content) <= _MOST_BYTES and b"\0" not in content
