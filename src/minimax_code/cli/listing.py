"""The table of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from minimax_code.jobs.status import Standing
from minimax_code.phrases import line_of
from minimax_code.store import Store
from minimax_code.store.row import JobRow

_DONE = ("passed", "partial", "failed")
_HEADER = ("JOB", "STATE", "PHASE", "DONE", "AGE", "TASK")


@dataclass(frozen=True)
class Listed:
    """A job as a line says it."""

    row: JobRow
    phase: str
    progress: float

    @classmethod
    def of(cls, store: Store, row: JobRow) -> Listed:
        """Of a job; the events of one that is done needn't be read."""
        if row.outcome in _DONE:
            return cls(row, "ended", 100.0)
        standing = Standing(row.id)
        standing.read(store.events(row.id))
        return cls(row, standing.phase, standing.progress)

    @property
    def description(self) -> str:
        """Of its task, in a line."""
        return line_of(str(self.row.spec.get("task", self.row.spec).get("description", "")))

    def json(self) -> dict[str, Any]:
        """All that is known, for programs."""
        row = self.row
        return {
            "id": row.id,
            "state": row.state,
            "phase": self.phase,
            "progress": self.progress,
            "created_at": row.created_at.isoformat(),
            "worked_s": row.worked_s,
            "events": row.seq,
            "description": self.description,
        }

    def cells(self, now: datetime) -> tuple[str, ...]:
        """As `table` has them."""
        row, age = self.row, _age(now - self.row.created_at)
        return row.id, row.state, self.phase, f"{self.progress:.0f}%", age, self.description


def table(listed: Sequence[Listed], width: int) -> list[str]:
    """Lines with a header, none longer than `width`; as long as it takes where that is 0."""
    now = datetime.now(UTC)
    rows = [_HEADER, *(one.cells(now) for one in listed)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER) - 1)]
    lines = ["  ".join([*(cell.ljust(wide) for cell, wide in zip(row, widths, strict=False)), row[-1]]) for row in rows]
    return [line if not width or len(line) <= width else f"{line[: width - 1]}…" for line in lines]


def _age(age: timedelta) -> str:
    for unit, seconds in (("d", 86400), ("h", 3600), ("min", 60)):
        if age.total_seconds() >= seconds:
            return f"{age.total_seconds() / seconds:.0f} {unit}"
    return f"{max(age.total_seconds(), 0):.0f} s"
