"""What is already known, a line for each answer, so that a run that was interrupted goes on where it was."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Job = Callable[[], Awaitable[Row]]


class Book:
    """Rows by their keys, in a file to which each is added as soon as it is known.

    Args:
        until: when no more work is begun, by `time.monotonic`.
    """

    def __init__(self, path: Path, *, until: float = float("inf"), at_once: int = 2) -> None:
        self.path, self._until, self._at_once = path, until, at_once
        self._rows: dict[str, Row] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        whole, _, torn = text.rpartition("\n")
        if torn:  # by what ended the last run
            path.write_text(whole and f"{whole}\n", encoding="utf-8")
        for row in map(json.loads, whole.splitlines()):
            self._rows[row["key"]] = row

    async def all(self, stage: str, jobs: Iterable[tuple[Sequence[str], Job]]) -> list[Row]:
        """The rows of some jobs, each named by the words of its key; those not yet known are worked on, a few at once.

        What isn't begun in time is left out.
        """
        named = [(" | ".join((stage, *words)), job) for words, job in jobs]
        todo = [(key, job) for key, job in named if key not in self._rows]
        turns, began, done = asyncio.Semaphore(self._at_once), time.monotonic(), 0

        async def one(key: str, job: Job) -> None:
            nonlocal done
            async with turns:
                start = time.monotonic()
                if start > self._until:
                    return
                row = await job()
            now = time.monotonic()
            done += 1
            self._add({"key": key, **row, "seconds": round(now - start, 2)})
            rate = done / (now - began)
            left = (len(todo) - done) / rate
            print(
                f"[{done}/{len(todo)}] {key}: {row['says']}, {now - start:.1f} s; "
                f"{60 * rate:.1f} a minute, {left / 60:.1f} min left",
                flush=True,
            )

        try:
            async with asyncio.TaskGroup() as group:
                for key, job in todo:
                    group.create_task(one(key, job))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None  # the first ended the others
        return [self._rows[key] for key, _ in named if key in self._rows]

    def _add(self, row: Row) -> None:
        self._rows[row["key"]] = row
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
