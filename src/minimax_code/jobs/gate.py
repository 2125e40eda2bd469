"""The log of a job as its work sees it: where it stops for its user, and where it marks the hours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from minimax_code.events import CheckpointReached, Event, ModelAsked, Recorded, TaskEnded, ToolEnded, ToolIntended
from minimax_code.store import StoredLog


class GatedLog:
    """A `Log` over a job's.

    Once the user wants the job paused, nothing new is begun: who would begin something waits, and when the last
    tool has ended and its outcome is written down, `stop` is called, which cancels the work. So nothing is lost. There
    is no way back: a user who has second thoughts gets a new worker.

    Args:
        hours: how often a checkpoint is marked; None for never.
        worked_s: for how many seconds the job has been worked on.
        stop: cancels the work.
    """

    def __init__(
        self, log: StoredLog, *, hours: float | None, worked_s: Callable[[], float], stop: Callable[[], object]
    ) -> None:
        self._log, self._hours, self._worked_s, self._stop = log, hours, worked_s, stop
        self._stopping = False
        self._running: set[tuple[str, str]] = set()  # calls of tools, by agent and id
        marked = [one.event.hours for one in log.recorded if isinstance(one.event, CheckpointReached)]
        self._marked_hours = marked[-1] if marked else 0.0
        self._tree = next((tree for one in reversed(log.recorded) if (tree := _tree_of(one.event))), "")

    @property
    def recorded(self) -> Sequence[Recorded]:
        """All so far, in order."""
        return self._log.recorded

    async def append(self, event: Event) -> Recorded:
        """Writes an event down.

        Raises:
            StoreError: it can't be written, or (`LeaseError`) another worker has the job.
            CancelledError: the user wants the job paused.
        """
        if isinstance(event, ToolIntended | ModelAsked) and self._is_stopping():
            await self._stopped()
        if isinstance(event, TaskEnded):
            return await self._log.end(event, event.result["state"])
        if isinstance(event, ToolIntended):
            self._running.add((event.agent, event.call.id))
        recorded = await self._log.append(event)
        if isinstance(event, ToolEnded):
            self._running.discard((event.agent, event.call_id))
        self._tree = _tree_of(event) or self._tree
        await self._mark()
        if self._is_stopping() and not self._running:
            await self._stopped()
        return recorded

    def _is_stopping(self) -> bool:
        self._stopping = self._stopping or self._log.wish != "run"
        return self._stopping

    async def _stopped(self) -> None:
        """Never returns."""
        if not self._running:
            self._stop()
        await asyncio.Future()

    async def _mark(self) -> None:
        hours = self._worked_s() / 3600
        if self._hours is not None and hours >= self._marked_hours + self._hours:
            self._marked_hours = hours
            await self._log.append(CheckpointReached(hours=hours, tree=self._tree))


def _tree_of(event: Event) -> str:
    return event.tree if isinstance(event, ToolEnded) else ""
