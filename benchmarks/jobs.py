"""Events of jobs, how long one takes until no power failure can lose it; and agents, whether they wait for more.

    python -m benchmarks.jobs [--folder DIR] [--repeats 200] [--out DIR]

First a gate: what was written is read again by another store, whole and in order, and each sub-task of a cluster is
done once, by an agent that does nothing else meanwhile, after those that it depends on. Else no speed is printed.

- append: an event of 200 bytes and one of 20 kB (the goal: 15 ms), by turns with what the disk itself takes: `fsync` of
  a file that grows by as many bytes, and one row by the bare `sqlite3` module with the same pragmas.
- read: a log of 5,000 events with its hash chain, as a worker reads it that goes on after a crash.
- busy: 200 sub-tasks of 0.10 to 0.20 s for 8 agents (the goal: 90%). `work` is the share of all of their time, from
  the call to its return; `queued` of the time in which some sub-task waits for an agent, so without the end, when
  there is nothing left to do. `free`: any of them can begin at once; `chains`: four of five stand on an earlier one.
  Two events of each are written in turn by all; `pause` is how long an agent is idle between two sub-tasks, in ms.

The folder has to be on a real disk: one in memory waits for nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, describe, save
from minimax_code.clusters import AgentCluster, Errand, Outcome
from minimax_code.events import ToolEnded
from minimax_code.store import Store, StoredLog

SIZES = (200, 20_000)
NUM_EVENTS = 5_000
NUM_SUBTASKS, NUM_AGENTS = 200, 8


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, default=Path.cwd())
    options.add_argument("--repeats", type=int, default=200)
    options.add_argument("--out", type=Path, default=RESULTS)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        check(folder)
        report: dict[str, Any] = {"machine": describe(), "append": {}}
        for size in SIZES:
            report["append"][size] = append(folder, size, asked.repeats)
        report["read"] = read(folder)
        report["busy"] = {name: busy(folder, chained=name == "chains") for name in ("free", "chains")}
    save("jobs", report, table(report), asked.out)


def event(size: int) -> ToolEnded:
    return ToolEnded(call_id="1", output="x" * size, failed=False, tree="0" * 40, seconds=1.0)


def opened(path: Path) -> StoredLog:
    store = Store(str(path))
    lease = store.lease(store.create({}), "benchmark", 3600)
    return store.log(lease.job, lease)


def check(folder: Path) -> None:
    """What is written is what is read."""
    log = opened(folder / "gate.db")
    written = [asyncio.run(log.append(event(size))) for size in range(50)]
    other = Store(str(folder / "gate.db"))
    assert other.events(other.jobs()[0].id) == written


def append(folder: Path, size: int, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each way to write down so many bytes."""
    log = opened(folder / f"append-{size}.db")
    runner = asyncio.Runner()
    ways: dict[str, Callable[[], object]] = {"store": lambda: runner.run(log.append(event(size)))}
    ways |= {"sqlite3": row(folder / f"row-{size}.db", size), "fsync": line(folder / f"line-{size}", size)}
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, write in ways.items():
            began = time.perf_counter()
            write()
            samples[name].append((time.perf_counter() - began) * 1e3)
    runner.close()
    return {name: _spread(each) for name, each in samples.items()}


def row(path: Path, size: int) -> Callable[[], object]:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE events (data TEXT)")
    return lambda: connection.execute("INSERT INTO events VALUES (?)", ("x" * size,))


def line(path: Path, size: int) -> Callable[[], object]:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write() -> None:
        os.write(file, b"x" * size)
        os.fsync(file)

    return write


def read(folder: Path) -> dict[str, float]:
    """Milliseconds until a log of many events is read and checked."""
    store = Store(str(folder / "read.db"))
    lease = store.lease(store.create({}), "benchmark", 3600)
    log = store.log(lease.job, lease)

    async def fill() -> None:
        for _ in range(NUM_EVENTS):
            await log.append(event(200))

    asyncio.run(fill())
    samples = []
    for _ in range(5):
        began = time.perf_counter()
        assert len(store.log(lease.job, lease).recorded) == NUM_EVENTS
        samples.append((time.perf_counter() - began) * 1e3)
    return _spread(samples)


def busy(folder: Path, *, chained: bool) -> dict[str, Any]:
    """Which share of their time agents work."""
    drawn = random.Random(0)
    seconds = {f"{i}": drawn.uniform(0.1, 0.2) for i in range(NUM_SUBTASKS)}
    needs = {
        f"{i}": [f"{drawn.randrange(i)}"] if chained and i >= NUM_AGENTS and i % 5 else [] for i in range(len(seconds))
    }
    spans: dict[str, tuple[str, float, float]] = {}

    async def work(errand: Errand) -> Outcome:
        assert errand.subtask.id not in spans and spans.keys() >= set(errand.subtask.dependencies)
        began = time.perf_counter()
        await asyncio.sleep(seconds[errand.subtask.id])
        spans[errand.subtask.id] = errand.agent.id, began, time.perf_counter()
        return Outcome(success=True)

    cluster = AgentCluster(store=str(folder / f"busy-{chained}.db"), work=work)
    agent = {"name": "Ada", "role": "Engineer", "capabilities": ["python"], "max_concurrent": 1}
    cluster.initialize_agents([{**agent, "id": f"{i}"} for i in range(NUM_AGENTS)])
    subtasks = [{"id": name, "description": "x", "dependencies": needs[name]} for name in seconds]
    began = time.perf_counter()
    assert all(one["success"] for one in cluster.execute_parallel(subtasks))
    whole = time.perf_counter() - began
    assert spans.keys() == seconds.keys()
    by_agent = [sorted(span[1:] for span in spans.values() if span[0] == f"{i}") for i in range(NUM_AGENTS)]
    pauses = [1e3 * (later[0] - sooner[1]) for each in by_agent for sooner, later in pairwise(each)]
    assert min(pauses) >= 0
    first, last = (pick(span[1] for span in spans.values()) for pick in (min, max))
    queued = sum(min(end, last) - start for _, start, end in spans.values()) / (NUM_AGENTS * (last - first))
    shares = [sum(end - start for start, end in each) / whole for each in by_agent]
    return {"work": statistics.mean(shares), "least": min(shares), "queued": queued, "pause": _spread(pauses)}


def table(report: dict[str, Any]) -> str:
    lines = ["| ms | median | p99 |", "|---|---|---|"]
    for size, ways in report["append"].items():
        lines += [f"| append, {size} bytes: {name} | {_cells(each)} |" for name, each in ways.items()]
    lines.append(f"| read {NUM_EVENTS:,} events | {_cells(report['read'])} |")
    lines += [f"| an agent's pause, {name} | {_cells(each['pause'])} |" for name, each in report["busy"].items()]
    lines += ["", "| busy | agents | the least busy | while sub-tasks wait |", "|---|---|---|---|"]
    for name, each in report["busy"].items():
        lines.append(f"| {name} | {each['work']:.1%} | {each['least']:.1%} | {each['queued']:.1%} |")
    return "\n".join(lines)


def _spread(samples: list[float]) -> dict[str, float]:
    ordered = sorted(samples)
    return {"median": statistics.median(ordered), "p99": ordered[int(0.99 * (len(ordered) - 1))], "max": ordered[-1]}


def _cells(each: dict[str, float]) -> str:
    return f"{each['median']:.2f} | {each['p99']:.2f}"


if __name__ == "__main__":
    main()
