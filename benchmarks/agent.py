"""What a step of an agent costs beside its model: events until they are safe, snapshots of a real tree, sandboxes.

    python -m benchmarks.agent [--files 5000] [--steps 90] [--out DIR]

The tree is 5,000 Python files of the packages that are installed here. A scripted model answers at once, so a step is
all that the loop adds: asking, writing four events to SQLite (WAL, synchronous FULL), and for calls that can change
files a snapshot of them all. The gate comes first: files, trees and log are what the calls say, and a sandbox keeps
what it runs from the rest, else no speed is printed.

What nobody can do without is measured in the same run, by turns: a process's start, git's start, a look at each of the
files, and an `fsync`. A step's least is made of these: as many of each as it needs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pydantic

from benchmarks.machine import RESULTS, describe, save
from minimax_code.agent import run_agent
from minimax_code.budget import Budget
from minimax_code.events import ToolEnded
from minimax_code.model import Abilities, Reply, Request, ToolCall
from minimax_code.permissions import Permissions
from minimax_code.store import Store
from minimax_code.tools.standard import working_tools
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.bubblewrap import Bubblewrap
from minimax_code.workbench.confinement import Sandbox
from minimax_code.workbench.landlock import Landlock
from minimax_code.workbench.sandbox import find_sandbox
from minimax_code.workbench.workspace import Workspace

GOALS = {"read": 50, "write": 50, "bash": 50, "snapshot": 150, "bubblewrap": 20, "landlock": 20}
"""Milliseconds."""

TOOLS = ("read", "write", "bash")
# Of a step, beside what it does itself: how many events are flushed, and how often git starts.
NEEDS = {"read": (4, 0), "write": (4, 4), "bash": (4, 4)}

Spread = dict[str, float]


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
        arguments: dict[str, Any] = {
            "read": {"path": "f0/0.py", "lines": 1},
            "write": {"path": "new.py", "content": f"x = {self.left}\n"},
            "bash": {"command": f"echo {self.left} > out.txt"},
        }
        name = TOOLS[self.left % 3]
        call = ToolCall(id=str(self.left), name=name, arguments=json.dumps(arguments[name]))
        return Reply(calls=(call,), finish_reason="tool_calls")


def main() -> None:
    """Writes a result file, and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=90)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as root:  # on a real disk
        figures = asyncio.run(measure(Path(root), asked.files, asked.steps))
    report = {"machine": describe(), "files": asked.files, "steps": asked.steps, "goals": GOALS, "ms": figures}
    save("agent", report, table(report), asked.out)


async def measure(root: Path, num_files: int, num_steps: int) -> dict[str, Spread]:
    """Milliseconds of everything."""
    lay(root / "source", num_files)
    workspace = await Workspace.create(root / "source", root / "work")
    await gate(workspace)
    await asyncio.sleep(1.1)  # a model takes longer than this second, in which git can't tell old files from new ones
    limits = await limits_of(workspace, root)
    return limits | await steps(workspace, root, num_steps) | await alone(workspace)


def lay(folder: Path, num_files: int) -> None:
    """A tree of real files."""
    found = sorted(Path(pydantic.__file__).parents[1].rglob("*.py"))[:num_files]
    for i, path in enumerate(found):
        target = folder / f"f{i // 100}" / f"{i}.py"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


async def gate(workspace: Workspace) -> None:
    """Snapshots have every edit, and commands in the sandboxes change their folder and nothing else."""
    for sandbox in sandboxes():
        script = f"echo {sandbox.name} > inside; echo x > {workspace.folder}/outside; echo x > /etc/outside"
        await sandbox.run(["sh", "-c", script], folder=workspace.path)
        tree = await workspace.snapshot()
        assert await workspace.git("cat-file", "blob", f"{tree}:inside") == f"{sandbox.name}\n".encode()
        assert not (workspace.folder / "outside").exists() and not Path("/etc/outside").exists()
    await workspace.restore(workspace.base)
    assert not (workspace.path / "inside").exists()


def sandboxes() -> list[Sandbox]:
    """Those that work here."""
    return [one for one in (Bubblewrap(), Landlock()) if one.problem() is None]


async def steps(workspace: Workspace, root: Path, num_steps: int) -> dict[str, Spread]:
    """A step by its tool; what a command takes is no part of bash's, and stands beside."""
    store = Store(str(root / "jobs.db"))
    job = store.create({})
    log = store.log(job, store.lease(job, "benchmark", 3600))
    model = Caller(num_steps)
    stopped = await run_agent(
        model, Workbench(workspace, find_sandbox()), instructions="Go.", log=log, budget=Budget(tokens=10**9),
        permissions=Permissions.of("deny write(migrations/*)"), tools=working_tools(), patience=10**6,
    )  # fmt: skip
    store.close()
    ended = [one.event for one in log.recorded if isinstance(one.event, ToolEnded)]
    assert stopped.reason == "finished" and len(ended) == num_steps and not any(one.failed for one in ended)
    assert (workspace.path / "new.py").read_text() == "x = 1\n"  # the last one written
    assert (workspace.path / "out.txt").read_text() == "2\n"
    assert await workspace.snapshot() == ended[-1].tree
    samples: dict[str, list[float]] = {name: [] for name in (*TOOLS, "command")}
    for i, event in enumerate(ended):
        took, name = 1e3 * (model.at[i + 1] - model.at[i]), TOOLS[(num_steps - 1 - i) % 3]
        command = 1e3 * event.receipt.seconds if event.receipt else 0.0
        samples[name].append(took - command)
        if command:
            samples["command"].append(command)
    return {name: spread(each[1:]) for name, each in samples.items()}  # the first ones are others' beginnings too


async def alone(workspace: Workspace) -> dict[str, Spread]:
    """A snapshot after one edit and after none, and the sandboxes, by turns."""
    edits = iter(range(10**6))

    async def snapshot() -> None:
        (workspace.path / "new.py").write_text(f"y = {next(edits)}\n")
        await workspace.snapshot()

    ways: dict[str, Callable[[], Awaitable[object]]] = {"snapshot": snapshot, "no edit": workspace.snapshot}
    for sandbox in sandboxes():
        ways[sandbox.name] = lambda sandbox=sandbox: sandbox.run(["true"], folder=workspace.path)
    return await by_turns(ways)


async def limits_of(workspace: Workspace, root: Path) -> dict[str, Spread]:
    """What a step is made of."""
    files = [os.fspath(path) for path in workspace.path.rglob("*.py")]
    line = os.open(root / "line", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def process() -> None:
        await (await asyncio.create_subprocess_exec("true")).wait()

    async def look() -> None:
        for path in files:
            os.lstat(path)

    async def flush() -> None:
        os.write(line, b"x" * 200)
        os.fsync(line)

    found = await by_turns({
        "process": process, "git": lambda: workspace.git("version"), "look at files": look, "fsync": flush,
    })  # fmt: skip
    os.close(line)
    return found


async def by_turns(ways: dict[str, Callable[[], Awaitable[object]]], repeats: int = 30) -> dict[str, Spread]:
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.perf_counter()
            await way()
            samples[name].append(1e3 * (time.perf_counter() - began))
    return {name: spread(each) for name, each in samples.items()}


def spread(samples: Sequence[float]) -> Spread:
    ordered = sorted(samples)
    return {"median": statistics.median(ordered), "p90": ordered[int(0.9 * (len(ordered) - 1))], "min": ordered[0]}


def least(name: str, ms: dict[str, Spread]) -> float | None:
    """What the parts of it take that nobody can do without."""

    def cost(what: str) -> float:
        return ms[what]["median"]

    if name in NEEDS:
        flushes, starts = NEEDS[name]
        return flushes * cost("fsync") + starts * cost("git") + (cost("look at files") if starts else 0.0)
    if name == "snapshot":
        return 3 * cost("git") + cost("look at files")
    return cost("process") if name in GOALS else None


def table(report: dict[str, Any]) -> str:
    lines = ["| ms | median | p90 | goal | its parts alone |", "|---|---|---|---|---|"]
    for name, each in report["ms"].items():
        parts = least(name, report["ms"])
        told = "" if parts is None else f"{parts:.1f}"
        lines.append(f"| {name} | {each['median']:.1f} | {each['p90']:.1f} | {GOALS.get(name, '')} | {told} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
