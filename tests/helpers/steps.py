"""Work of a few steps for tests of jobs: each does something once, and says so in its log, as an agent does."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from minimax_code.events import Log, TaskEnded, ToolEnded, ToolIntended
from minimax_code.jobs.worker import Assignment
from minimax_code.model import ToolCall

UNKNOWN = "outcome unknown"


def work(
    effects: Path, num_steps: int, during: Callable[[int], Awaitable[None]] | None = None
) -> Callable[[Assignment, Log], Awaitable[None]]:
    """Work whose step i adds the line "i" to a file, and that looks at this file before it decides what is next.

    Args:
        during: is awaited in the middle of each step.
    """

    async def run(assignment: Assignment, log: Log) -> None:
        calls = [one.event.call.id for one in log.recorded if isinstance(one.event, ToolIntended)]
        ended = {one.event.call_id for one in log.recorded if isinstance(one.event, ToolEnded)}
        for call in calls:
            if call not in ended:
                await log.append(ToolEnded(call_id=call, output=UNKNOWN, failed=True, tree="", seconds=0.0))
        while (i := len(effects.read_text().split()) if effects.exists() else 0) < num_steps:
            call = f"call-{len(calls)}"
            calls.append(call)
            await log.append(ToolIntended(call=ToolCall(id=call, name="add"), tree=str(i)))
            with effects.open("a") as file:
                file.write(f"{i}\n")
                file.flush()
                os.fsync(file.fileno())
            if during:
                await during(i)
            await log.append(ToolEnded(call_id=call, output="added", failed=False, tree=str(i + 1), seconds=0.0))
        await log.append(TaskEnded(result={"state": "passed"}))

    return run
