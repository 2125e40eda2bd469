"""How a job stands, read from its events: what an agent says of itself is no part of it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydantic import ValidationError

from minimax_code import events as e
from minimax_code.jobs.update import Update, message_of
from minimax_code.work.progress import Phase, Progress

# Percent that are done when a phase begins; the steps of the plan fill what lies between "work" and "check".
_PERCENT: dict[Phase, float] = {"begin": 0, "strategy": 1, "contract": 5, "plan": 10, "work": 15, "check": 80}
_PERCENT |= {"verify": 90, "judged": 95}


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """A job at a moment.

    Attributes:
        state: waiting, running, pausing, paused, cancelling, cancelled, crashed_resumable, or that of its result.
        progress: percent of the way: the phases, and the steps of the plan. Work that the verifier sends back falls
            back with it.
        tasks_completed: steps of the plan that are done, of `tasks_total`.
        issues: what went wrong or is in the way, the oldest first.
        tree: hash of the git tree that the files were at the last step, from which work would go on.
        worked: how long workers have had it.
        can_move: whether another machine that uses the store could go on with it; else the one that has its files.
        updated_at: time of the newest event.
    """

    state: str
    current_phase: str
    progress: float
    tasks_completed: int
    tasks_total: int
    issues: tuple[str, ...]
    tree: str
    model_calls: int
    tokens: int
    worked: timedelta
    can_move: bool
    updated_at: datetime | None


@dataclass
class Standing:
    """The fold over a job's events. It may be fed as they come."""

    job: str
    work: Progress = field(default_factory=Progress)
    issues: list[str] = field(default_factory=list)
    seq: int = 0
    tree: str = ""
    model_calls: int = 0
    tokens: int = 0
    updated_at: datetime | None = None
    worker: str | None = None  # the one that has it, as far as the events say
    has_ended: bool = False

    def read(self, recorded: Iterable[e.Recorded]) -> list[Update]:
        """Takes in the next events, and returns what there is to tell of them."""
        return [update for one in recorded if (update := self._apply(one))]

    @property
    def phase(self) -> str:
        """Of the work."""
        return "ended" if self.has_ended else self.work.phase

    @property
    def progress(self) -> float:
        """Percent."""
        if self.has_ended and self.work.result and self.work.result.is_final:
            return 100.0
        percent = _PERCENT[self.work.phase]
        if self.work.phase == "work" and self.work.steps:
            percent += (_PERCENT["check"] - percent) * self.steps_done / len(self.work.steps)
        return round(percent, 1)

    @property
    def steps_done(self) -> int:
        """Of the plan."""
        return sum(step.state == "done" for step in self.work.steps)

    def _apply(self, one: e.Recorded) -> Update | None:
        with suppress(ValidationError):  # a job of another kind, whose result only its starter can read
            self.work.apply(one)
        self.seq, self.updated_at, self.has_ended = one.seq, one.at, isinstance(one.event, e.TaskEnded)
        match one.event:
            case e.WorkerStarted(worker=worker):
                if self.worker:
                    self.issues.append(f"{self.worker} was lost; {worker} went on after event {one.seq - 1}")
                self.worker = worker
            case e.WorkerStopped(reason=reason, message=message):
                self.worker = None
                if reason == "failed":
                    self.issues.append(message)
            case e.ModelReplied(reply=reply):
                self.model_calls += 1
                self.tokens += reply.usage.total_tokens
            case e.ToolEnded(tree=tree):
                self.tree = tree
            case e.StuckSeen(rule=rule):
                self.issues.append(rule)
            case e.AgentStopped(reason=reason, message=message) if reason != "finished":
                self.issues.append(f"{reason}: {message}")
            case e.Verified(verdict=verdict) if verdict.outcome != "PASS":
                self.issues += verdict.evidence
            case _:
                pass
        if message := message_of(one.event):
            event_id, phase = f"{self.job}/{one.seq}", self.phase
            return Update(event_id=event_id, timestamp=one.at, phase=phase, message=message, progress=self.progress)
        return None
