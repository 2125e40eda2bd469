"""How far a task has come, read from its events. Going on after a crash is reading them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from minimax_code.contract import Contract, Verdict
from minimax_code.events import (
    AgentStopped,
    Checked,
    ContractFrozen,
    ModelReplied,
    PlanChanged,
    Recorded,
    Step,
    StrategyChosen,
    TaskBegan,
    TaskEnded,
    Told,
    Verified,
)
from minimax_code.model import Strategy, Usage
from minimax_code.skills.calibration import Calibration
from minimax_code.work.result import TaskResult

WORKER = "worker"
"""What the agent that does the work is called in the events."""

RESUMED = ("budget", "failed", "needs_input")
"""Reasons to stop that may be gone when a task is executed again."""

Phase = Literal["begin", "strategy", "contract", "plan", "work", "check", "verify", "judged"]
"""What comes next; "judged" is a round that was verified, or whose checks are red."""


@dataclass
class Progress:
    """The fold over a task's events.

    Attributes:
        tree: the files when the task began, and then as they were last checked.
        strategy: None before it was chosen, and in jobs of versions that had agents only.
        calibration: what is known of the model, if anything is.
        steps: of the plan, as the worker last had it.
        told: what the worker was told last.
        rounds: how often the worker has handed in.
        stopped: how the worker ended its last round.
        checked: the last run of the contract's checks; None while the worker is at it again.
        verdict: the verifier's on just those files.
        result: what came of the task when it last ended; the phase says what comes next if it is executed again.
    """

    phase: Phase = "begin"
    began: datetime | None = None
    base: str = ""
    tree: str = ""
    strategy: Strategy | None = None
    calibration: Calibration | None = None
    contract: Contract | None = None
    steps: tuple[Step, ...] = ()
    told: str = ""
    rounds: int = 0
    stopped: AgentStopped | None = None
    checked: Checked | None = None
    verdict: Verdict | None = None
    result: TaskResult | None = None

    @classmethod
    def of(cls, recorded: Sequence[Recorded]) -> Progress:
        """Of a task's log."""
        progress = cls()
        for one in recorded:
            progress.apply(one)
        return progress

    def apply(self, one: Recorded) -> None:
        """Takes in the next event."""
        match one.event:
            case TaskBegan(base=base):
                self.began, self.base, self.tree, self.phase = one.at, base, base, "strategy"
            case StrategyChosen(strategy=strategy, calibration=known):
                self.strategy, self.phase = strategy, "contract"
                self.calibration = Calibration.model_validate(known, strict=False) if known else None
            case ContractFrozen(contract=contract):
                self.contract, self.phase = contract, "work" if self.strategy == "pipeline" else "plan"
            case PlanChanged(agent=agent, steps=steps) if agent == WORKER:
                self.steps = steps
                self.phase = "work"
            case Told(agent=agent, text=text) if agent == WORKER:
                self.told = text
                self.stopped = self.checked = self.verdict = self.result = None
                self.phase = "work"
            case AgentStopped(agent=agent) if agent == WORKER:
                self.stopped, self.phase = one.event, "check"
            case Checked(tree=tree, receipts=receipts):
                self.checked, self.tree, self.rounds = one.event, tree, self.rounds + 1
                red = self.contract is None or self.contract.unmet(receipts, tree)
                self.phase = "judged" if red else "verify"
            case Verified(verdict=verdict):
                self.verdict, self.phase = verdict, "judged"
            case TaskEnded(result=result):
                self.result = TaskResult.model_validate(result, strict=False)
                if self.stopped and self.stopped.reason in RESUMED:
                    self.phase = "work"
            case _:
                pass


def usage_of(recorded: Sequence[Recorded]) -> tuple[int, Usage]:
    """Calls of models that were answered, and what they cost in tokens."""
    replies = [one.event.reply for one in recorded if isinstance(one.event, ModelReplied)]
    return len(replies), sum((reply.usage for reply in replies), Usage())
