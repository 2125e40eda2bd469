"""How far a cluster has come with its sub-tasks."""

from __future__ import annotations

from collections.abc import Mapping

from minimax_code.record import Record


class Progress(Record):
    """Counts of sub-tasks.

    Attributes:
        running: ids of those that are being done, by the ids of their agents.
        blocked: those that depend on one that failed; nobody will do them.
        message: what has changed last.
    """

    total: int
    done: int = 0
    failed: int = 0
    blocked: int = 0
    running: Mapping[str, tuple[str, ...]] = {}
    message: str = ""

    @property
    def waiting(self) -> int:
        """For an agent, or for what they depend on."""
        return self.total - self.done - self.failed - self.blocked - sum(map(len, self.running.values()))

    @property
    def percent(self) -> float:
        """Of the sub-tasks with which nothing is left to do."""
        return round(100 * (self.done + self.failed + self.blocked) / self.total, 1)
