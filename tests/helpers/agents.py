"""A bench over a folder, calls as models write them, and an agent that follows a script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minimax_code.agent import run_agent
from minimax_code.budget import Budget
from minimax_code.events import AgentStopped, Event, Log, MemoryLog
from minimax_code.model import Abilities, Model, Reply, Request, ToolCall, Usage
from minimax_code.permissions import Permissions
from minimax_code.testing import ScriptedModel
from minimax_code.tools.standard import working_tools
from minimax_code.tools.tool import Tool
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.sandbox import find_sandbox
from minimax_code.workbench.workspace import Workspace


def call(name: str, /, *, id: str = "c", **arguments: Any) -> ToolCall:
    return ToolCall(id=id, name=name, arguments=json.dumps(arguments))


def bench_of(folder: Path, files: Mapping[str, str] = {}) -> Workbench:
    """A bench over a copy of these files; `folder` is where both are kept."""
    source = folder / "source"
    for name, text in files.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    workspace = asyncio.run(Workspace.create(source if files else None, folder / "work"))
    return Workbench(workspace, find_sandbox())


def run(
    bench: Workbench,
    script: Sequence[Any] | Model,
    *,
    log: Log | None = None,
    budget: Budget | None = None,
    permissions: Permissions | None = None,
    tools: Sequence[Tool] | None = None,
    **options: Any,
) -> tuple[AgentStopped, Log]:
    """Runs an agent with a script; how it stopped, and its log."""
    model = ScriptedModel(script) if isinstance(script, Sequence) else script
    log = log or MemoryLog()
    stopped = asyncio.run(
        run_agent(
            model, bench, log=log, budget=budget or Budget(), permissions=permissions or Permissions(),
            tools=working_tools() if tools is None else tools,
            **({"instructions": "Do it.", "system": "Be good."} | options),
        )
    )  # fmt: skip
    return stopped, log


def events(log: Log, *kinds: type[Event]) -> list[Any]:
    return [one.event for one in log.recorded if not kinds or isinstance(one.event, kinds)]


class ByTurn:
    """A model that answers by how many turns it has had, whoever asks it: one that a crash doesn't confuse.

    Attributes:
        requests: what was asked so far.
    """

    name = "by turn"

    def __init__(self, lines: Sequence[str | ToolCall], *, window: int = 32_768) -> None:
        self._lines, self._window = lines, window
        self.requests: list[Request] = []

    async def abilities(self) -> Abilities:
        return Abilities(context_tokens=self._window, calls_tools=True)

    async def reply(self, request: Request) -> Reply:
        self.requests.append(request)
        turn = sum(message.role == "assistant" for message in request.messages)
        line = self._lines[turn]
        usage = Usage(prompt_tokens=100, completion_tokens=10)
        if isinstance(line, str):
            return Reply(content=line, usage=usage)
        return Reply(calls=(line,), finish_reason="tool_calls", usage=usage)
