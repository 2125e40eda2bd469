"""The sub-tasks of a run and what became of each: the fold over its events, from which a run goes on after a crash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Any, Literal

from minimax_code.clusters.progress import Progress
from minimax_code.clusters.subtask import Subtask, SubtaskResult
from minimax_code.events import Event, SubtaskBegan, SubtaskEnded

INTERRUPTED = "it was interrupted, and what had come of it is not known"


@dataclass
class Entry:
    """A sub-task and what became of it.

    Attributes:
        begun: attempts that somebody began with.
        failed: attempts that failed.
        agents: who began, in order.
    """

    subtask: Subtask
    state: Literal["waiting", "running", "done", "failed", "blocked"] = "waiting"
    begun: int = 0
    failed: int = 0
    agents: list[str] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)
    result: Mapping[str, Any] = field(default_factory=dict)


class Board:
    """What waits, runs, is done, has failed, and is blocked by what has failed.

    Args:
        subtasks: without cycles.
        attempts: at each, at most.
    """

    def __init__(self, subtasks: Sequence[Subtask], attempts: int) -> None:
        self.entries = {subtask.id: Entry(subtask) for subtask in subtasks}
        self._attempts = attempts
        self._order = list(TopologicalSorter({one.id: one.dependencies for one in subtasks}).static_order())
        followers: dict[str, list[str]] = {one.id: [] for one in subtasks}
        for one in subtasks:
            for name in one.dependencies:
                followers[name].append(one.id)
        # A sub-task is as urgent as the longest way from its beginning to the end of everything.
        self._urgency: dict[str, float] = {}
        for name in reversed(self._order):
            after = max((self._urgency[follower] for follower in followers[name]), default=0.0)
            self._urgency[name] = self.entries[name].subtask.estimated_duration + after
        self._message = ""

    def apply(self, event: Event) -> None:
        """Takes note of an event."""
        match event:
            case SubtaskBegan() if entry := self.entries.get(event.subtask):
                if entry.state == "running":
                    entry.causes.append(INTERRUPTED)
                entry.state, entry.begun = "running", event.attempt
                entry.agents.append(event.agent)
                self._message = f"{event.subtask} begins with {event.agent}, attempt {event.attempt}"
            case SubtaskEnded() if entry := self.entries.get(event.subtask):
                entry.result = event.result
                self._message = f"{event.subtask} is done"
                if event.success:
                    entry.state = "done"
                else:
                    self._fail(entry, event.cause)
            case _:
                pass

    def interrupt(self) -> None:
        """Nobody works any more on what was running: it waits again, and is told so."""
        for entry in self.entries.values():
            if entry.state == "running":
                entry.state = "waiting"
                entry.causes.append(INTERRUPTED)

    def ready(self) -> list[Subtask]:
        """Those that could begin now, the most urgent first."""
        ready = [one.subtask for one in self.entries.values() if one.state == "waiting" and self._is_free(one.subtask)]
        return sorted(ready, key=lambda subtask: -self._urgency[subtask.id])

    def inputs(self, subtask: Subtask) -> dict[str, dict[str, Any]]:
        """Results of all that a sub-task stands on, each after those that it depends on itself."""
        below: set[str] = set()
        names = list(subtask.dependencies)
        while names:
            if (name := names.pop()) not in below:
                below.add(name)
                names += self.entries[name].subtask.dependencies
        return {name: dict(self.entries[name].result) for name in self._order if name in below}

    def done(self) -> dict[str, Mapping[str, Any]]:
        """Results of all that are done, each after those that it depends on."""
        return {name: self.entries[name].result for name in self._order if self.entries[name].state == "done"}

    def results(self) -> list[SubtaskResult]:
        """What came of each, in the order in which they were given."""
        return [
            SubtaskResult(
                task_id=name,
                agent_id=entry.agents[-1] if entry.agents else None,
                success=entry.state == "done",
                result=dict(entry.result),
                attempts=entry.begun,
                causes=list(entry.causes),
            )
            for name, entry in self.entries.items()
        ]

    @property
    def progress(self) -> Progress:
        """As it is now."""
        states = [entry.state for entry in self.entries.values()]
        running: dict[str, tuple[str, ...]] = {}
        for name, entry in self.entries.items():
            if entry.state == "running":
                running[entry.agents[-1]] = (*running.get(entry.agents[-1], ()), name)
        return Progress(
            total=len(states),
            done=states.count("done"),
            failed=states.count("failed"),
            blocked=states.count("blocked"),
            running=running,
            message=self._message,
        )

    def _is_free(self, subtask: Subtask) -> bool:
        return all(self.entries[name].state == "done" for name in subtask.dependencies)

    def _fail(self, entry: Entry, cause: str) -> None:
        entry.failed += 1
        entry.causes.append(cause)
        entry.state = "failed" if entry.failed >= self._attempts else "waiting"
        self._message = f"attempt {entry.begun} at {entry.subtask.id} failed: {cause}"
        if entry.state == "failed":
            self._block_followers()

    def _block_followers(self) -> None:
        for name in self._order:
            entry = self.entries[name]
            for before in entry.subtask.dependencies:
                if entry.state == "waiting" and self.entries[before].state in ("failed", "blocked"):
                    entry.state = "blocked"
                    entry.causes.append(f"{before!r}, which it depends on, has not been done")
