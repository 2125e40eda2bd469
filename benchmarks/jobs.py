"""Events of jobs: how long one takes until no power failure can lose it, and how long a log takes to be read again.

    python -m benchmarks.jobs [--folder DIR] [--repeats 200]

First a gate: what was written is read again by another store, whole and in order, else no speed is printed.

- append: an event of 200 bytes and one of 20 kB (the goal: 15 ms), by turns with what the disk itself takes: `fsync` of
  a file that grows by as many bytes, and one row by the bare `sqlite3` module with the same pragmas.
- read: a log of 5,000 events with its hash chain, as a worker reads it that goes on after a crash.

The folder has to be on a real disk: one in memory waits for nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machine import describe, save
from minimax_code.events import ToolEnded
from minimax_code.store import Store, StoredLog

SIZES = (200, 20_000)
NUM_EVENTS = 5_000


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, default=Path.cwd())
    options.add_argument("--repeats", type=int, default=200)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        check(folder)
        report: dict[str, Any] = {"machine": describe(), "append": {}}
        for size in SIZES:
            report["append"][size] = append(folder, size, asked.repeats)
        report["read"] = read(folder)
    save("jobs", report, table(report))


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


def table(report: dict[str, Any]) -> str:
    lines = ["| ms | median | p99 |", "|---|---|---|"]
    for size, ways in report["append"].items():
        lines += [f"| append, {size} bytes: {name} | {_cells(each)} |" for name, each in ways.items()]
    return "\n".join([*lines, f"| read {NUM_EVENTS:,} events | {_cells(report['read'])} |"])


def _spread(samples: list[float]) -> dict[str, float]:
    ordered = sorted(samples)
    return {"median": statistics.median(ordered), "p99": ordered[int(0.99 * (len(ordered) - 1))], "max": ordered[-1]}


def _cells(each: dict[str, float]) -> str:
    return f"{each['median']:.2f} | {each['p99']:.2f}"


if __name__ == "__main__":
    main()
