"""What has to hold before a task counts as done, fixed before anybody works on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from minimax_code.record import Record
from minimax_code.workbench.receipt import Receipt


class Check(Record):
    """A command, and how it has to end.

    Attributes:
        exit_code: None where `cases` decide, and whatever else fails has failed before too.
        cases: tests that have to be among those that pass; one that was skipped, renamed or removed has not passed.
    """

    command: tuple[str, ...]
    exit_code: int | None = 0
    cases: tuple[str, ...] = ()

    @property
    def is_looked_up(self) -> bool:
        """Whether it is no program, but found out by our own code."""
        return self.command[0] in ("api:", "file:")

    @property
    def text(self) -> str:
        """As people write it."""
        ends = f"exit {self.exit_code}: " if self.exit_code else ""
        return ends + " ".join(self.command)

    def is_met_by(self, receipt: Receipt) -> bool:
        """Whether the receipt is one of this command that ended as it has to."""
        outcomes = {case.name: case.outcome for case in receipt.cases}
        if receipt.command != self.command or any(outcomes.get(name) != "passed" for name in self.cases):
            return False
        if self.exit_code is None:
            return receipt.exit_code is not None and bool(self.cases)
        return receipt.exit_code == self.exit_code and not {"failed", "error"} & set(outcomes.values())


class Contract(Record):
    """The acceptance checks of a task.

    Attributes:
        frozen: files that the checks stand on, by path, with their text: whatever becomes of them during the work, the
            checks run on these.
        forbidden: paths, or patterns of paths, that the work may not touch.
        min_coverage: percent of the changed lines that the tests have to run.
        origin: who set the checks: the user, or a model, whose tests then failed on the base first.
        failed_before: tests that fail without the work, those of a model by assertion: what it has to bring about.
        notes: what a reader has to know of how the checks came about.
    """

    checks: tuple[Check, ...]
    frozen: Mapping[str, str] = {}
    forbidden: tuple[str, ...] = ()
    min_coverage: float | None = None
    origin: Literal["user", "model"] = "user"
    failed_before: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def is_met_by(self, receipts: Sequence[Receipt], tree: str) -> bool:
        """Whether there are checks, and each was met on just this tree."""
        return bool(self.checks) and not self.unmet(receipts, tree)

    def unmet(self, receipts: Sequence[Receipt], tree: str) -> tuple[Check, ...]:
        """Checks that no run on just this tree has met; what was run on earlier files proves nothing of these."""
        mine = [receipt for receipt in receipts if receipt.tree == tree]
        return tuple(check for check in self.checks if not any(check.is_met_by(receipt) for receipt in mine))


Outcome = Literal["PASS", "FAIL", "PARTIAL"]


class Verdict(Record):
    """What an independent verifier found.

    Attributes:
        tree: the files that it is about.
        evidence: what speaks against the work, each point something that can be looked up.
        mendable: those of the points that go back to whoever did the work.
        receipts: what the verifier has run itself.
    """

    outcome: Outcome
    tree: str
    evidence: tuple[str, ...] = ()
    mendable: tuple[str, ...] = ()
    receipts: tuple[Receipt, ...] = ()
