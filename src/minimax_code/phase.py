"""A phase of a project as its user has it, and what a project's events say of its phases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Self

from minimax_code.contract import Check
from minimax_code.events import Event, PhaseAdded, PhaseBegan, PhaseEnded, ProjectBegan, Recorded
from minimax_code.work.agent import Agent
from minimax_code.work.result import TaskResult


class Phase:
    """A phase of a project, which may still be worked on; what it came to is waited for.

    Attributes:
        name, agent: as given.
        after: phases that it builds on.
        future: its end.
    """

    def __init__(self, name: str, agent: Agent, after: Sequence[str], future: Future[PhaseEnded]) -> None:
        self.name, self.agent, self.after, self.future = name, agent, tuple(after), future

    @property
    def is_complete(self) -> bool:
        """Whether it has ended."""
        return self.future.done()

    @property
    def can_go_on(self) -> bool:
        """Whether nobody works on it and the project doesn't have its files."""
        if not self.is_complete:
            return False
        return self.future.cancelled() or self.future.exception() is not None or not self.is_merged

    @property
    def result(self) -> TaskResult:
        """What came of it; waits for its end.

        Raises:
            CodeError: what ended the work before there was a result.
        """
        return result_of(self.future.result())

    @property
    def success(self) -> bool:
        """Whether it was verified and is part of the project now; waits for its end."""
        return self.result.success and self.is_merged

    @property
    def is_merged(self) -> bool:
        """Whether the project has its files now; waits for its end."""
        return self.future.result().merged

    @property
    def conflicts(self) -> tuple[str, ...]:
        """Files in which it contradicts what was merged before; waits for its end."""
        return self.future.result().conflicts

    @property
    def job(self) -> str:
        """The job of the store that it was; waits for its end."""
        return self.future.result().job

    def __str__(self) -> str:
        if not self.is_complete:
            return f"{self.name}: worked on by {self.agent.name}"
        conflicts = f"\n- conflicts in {', '.join(self.conflicts)}" if self.conflicts else ""
        merged = "merged" if self.is_merged else "not merged"
        return f"{self.name}, {merged}: {self.result}{conflicts}"


@dataclass
class Phases:
    """The fold over a project's events.

    Attributes:
        tree: the project's files; None before it has any.
        added: all phases, in their order.
        began, ended: the last attempt at each.
        num_begun: attempts in all.
        merged: ends of those that are part of the project, in their order.
    """

    tree: str | None = None
    added: dict[str, PhaseAdded] = field(default_factory=dict)
    began: dict[str, PhaseBegan] = field(default_factory=dict)
    ended: dict[str, PhaseEnded] = field(default_factory=dict)
    num_begun: int = 0
    merged: list[PhaseEnded] = field(default_factory=list)
    _known: dict[str, int] = field(default_factory=dict)  # how many were merged when it began

    @classmethod
    def of(cls, recorded: Iterable[Recorded]) -> Self:
        """Of a project's log."""
        phases = cls()
        for one in recorded:
            phases.apply(one.event)
        return phases

    def apply(self, event: Event) -> None:
        """Takes in the next event."""
        match event:
            case ProjectBegan(base=base):
                self.tree = base
            case PhaseAdded(phase=phase):
                self.added[phase] = event
            case PhaseBegan(phase=phase):
                self.began[phase] = event
                self.ended.pop(phase, None)
                self.num_begun += 1
                self._known[phase] = len(self.merged)
            case PhaseEnded(phase=phase, tree=tree, merged=merged):
                self.ended[phase] = event
                if merged:
                    self.tree = tree
                    self.merged.append(event)
            case _:
                pass

    def checks_since(self, phase: str) -> list[Check]:
        """Of what was merged since a phase began, and so is not part of what it stands on."""
        contracts = [result_of(ended).contract for ended in self.merged[self._known[phase] :]]
        return [check for contract in contracts if contract for check in contract.checks]


def result_of(ended: PhaseEnded) -> TaskResult:
    """What came of its task."""
    return TaskResult.model_validate(ended.result, strict=False)
