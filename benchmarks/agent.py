"""What a step of an agent costs beside the model: events until they are safe, and the snapshot of a real tree.

    python -m benchmarks.agent

The tree is 5,000 Python files of the packages that are installed here. A scripted model answers at once, so a step is
all that the loop adds: asking, writing four events to SQLite (WAL, synchronous FULL), and for calls that can change
files a snapshot of them all. The gate is that the files and the log are what the calls say.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import pydantic

from minimax_code.agent import run_agent
from minimax_code.budget import Budget
from minimax_code.events import ToolEnded
from minimax_code.model import Abilities, Reply, Request, ToolCall
from minimax_code.permissions import Permissions
from minimax_code.store import Store
from minimax_code.tools.standard import working_tools
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.sandbox import find_sandbox
from minimax_code.workbench.workspace import Workspace


class Caller:
    """A model that makes the same calls again and again, by turns, at once."""

    name = "at once"

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.at: list[float] = []

    async def abilities(self) -> Abilities:
        return Abilities(context_tokens=1_000_000, calls_tools=True)

    async def reply(self, request: Request) -> Reply:
        self.at.append(time.perf_counter())
        if not self.left:
            return Reply(content="Done.")
        self.left -= 1
        name, arguments = [
            ("read", {"path": "f0/0.py", "lines": 1}),
            ("write", {"path": "new.py", "content": f"x = {self.left}\n"}),
            ("bash", {"command": f"echo {self.left} > out.txt"}),
        ][self.left % 3]
        call = ToolCall(id=str(self.left), name=name, arguments=json.dumps(arguments))
        return Reply(calls=(call,), finish_reason="tool_calls")


def lay(folder: Path, num_files: int) -> None:
    """A tree of real files."""
    found = sorted(Path(pydantic.__file__).parents[1].rglob("*.py"))[:num_files]
    for i, path in enumerate(found):
        target = folder / f"f{i // 100}" / f"{i}.py"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


async def measure(root: Path, num_files: int, num_steps: int) -> dict[str, object]:
    """Milliseconds of a step, by tool."""
    lay(root / "source", num_files)
    workspace = await Workspace.create(root / "source", root / "work")
    store = Store(str(root / "jobs.db"))
    job = store.create({})
    log = store.log(job, store.lease(job, "benchmark", 3600))
    model = Caller(num_steps)
    stopped = await run_agent(
        model, Workbench(workspace, find_sandbox()), instructions="Go.", log=log, budget=Budget(tokens=10**9),
        permissions=Permissions.of("deny write(migrations/*)"), tools=working_tools(), patience=10**6,
    )  # fmt: skip
    ended = [one.event for one in log.recorded if isinstance(one.event, ToolEnded)]
    assert stopped.reason == "finished" and len(ended) == num_steps and not any(one.failed for one in ended)
    assert (workspace.path / "new.py").read_text() == "x = 1\n"  # the last one written
    assert (workspace.path / "out.txt").read_text() == "2\n"
    names = [["read", "write", "bash"][(num_steps - 1 - i) % 3] for i in range(num_steps)]
    steps = [1000 * (later - sooner) for sooner, later in zip(model.at, model.at[1:], strict=False)]
    result: dict[str, object] = {"files": num_files, "steps": num_steps}
    for name in ("read", "write", "bash"):
        mine = sorted(step for step, one in zip(steps[3:], names[3:], strict=False) if one == name)
        result[name] = {"median_ms": round(statistics.median(mine), 1), "p90_ms": round(mine[int(len(mine) * 0.9)], 1)}
    ran = [1000 * one.receipt.seconds for one in ended if one.receipt]
    result["bash_itself_ms"] = round(statistics.median(ran), 1)
    store.close()
    return result


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        print(json.dumps(asyncio.run(measure(Path(root), args.files, args.steps)), indent=2))


if __name__ == "__main__":
    main()
