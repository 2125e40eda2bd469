"""Work of a few steps for tests of jobs: each does something once, and says so in its log, as an agent does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from minimax_code.events import Log, TaskEnded, ToolEnded, ToolIntended
from minimax_code.model import ToolCall

UNKNOWN = "outcome unknown"
Step = Callable[[int], Awaitable[None]]


def work(effects: Path, num_steps: int, during: Step | None = None) -> Callable[..., Awaitable[None]]:
    """Work whose step i adds the line "i" to a file. A step of which nobody knows whether it was done is not repeated.

    Args:
        during: is awaited in the middle of each step.
    """

    async def run(spec: Mapping[str, Any], log: Log, worked_s: float) -> None:
        intended = [one.event.call.id for one in log.recorded if isinstance(one.event, ToolIntended)]
        ended = {one.event.call_id for one in log.recorded if isinstance(one.event, ToolEnded)}
        for call in intended:
            if call not in ended:
                await log.append(ToolEnded(call_id=call, output=UNKNOWN, failed=True, tree="", seconds=0.0))
        for i in range(len(intended), num_steps):
            await log.append(ToolIntended(call=ToolCall(id=str(i), name="add"), tree=str(i)))
            with effects.open("a") as file:
                print(i, file=file)
                file.flush()
                os.fsync(file.fileno())
            if during:
                await during(i)
            await log.append(ToolEnded(call_id=str(i), output="added", failed=False, tree=str(i + 1), seconds=0.0))
        await log.append(TaskEnded(result={"state": "passed"}))

    return run


async def no_time(_: int) -> None:
    """A step that lets others run."""
    await asyncio.sleep(0)
