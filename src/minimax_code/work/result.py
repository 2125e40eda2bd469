"""What came of a task."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from minimax_code.contract import Contract, Verdict
from minimax_code.model import Strategy, Usage
from minimax_code.record import Record
from minimax_code.workbench.receipt import Receipt

# passed             every check is green on the files as they are now, and the verifier found nothing
# partial            something is proved, something is not: `issues` says what
# failed             a check is red
# budget             a limit was used up before the end
# stuck              the agent went in circles, or gave up
# needs_input        it has a question, which is in `issues`
# crashed_resumable  the work was interrupted; with the same log it goes on where it was
State = Literal["passed", "failed", "partial", "budget", "stuck", "needs_input", "crashed_resumable"]


class Cost(Record):
    """What a task has used. `money` is None where nobody said what the model costs."""

    calls: int = 0
    usage: Usage = Usage()
    seconds: float = 0.0
    money: float | None = None


class TaskResult(Record):
    """What came of a task.

    Attributes:
        strategy: how it was worked on; None where it ended before that was chosen.
        tree: hash of the git tree that the diff ends in.
        diff: from the user's files as they were; nothing was written back to them.
        receipts: everything that was run to check the work, by the worker's side and by the verifier.
        issues: what is missing, open or was found wrong, in words.
    """

    state: State
    strategy: Strategy | None = None
    tree: str
    diff: str = ""
    files_created: tuple[str, ...] = ()
    files_changed: tuple[str, ...] = ()
    contract: Contract | None = None
    verdict: Verdict | None = None
    receipts: tuple[Receipt, ...] = ()
    issues: tuple[str, ...] = ()
    cost: Cost = Cost()

    @property
    def success(self) -> bool:
        """Whether the task is done: its verifier passed it, and each check is green on just the files of the diff.

        A green run on earlier files than these counts for nothing, whatever the state says.
        """
        return (
            self.state == "passed"
            and self.contract is not None
            and self.verdict is not None
            and self.verdict.outcome == "PASS"
            and self.contract.is_met_by(self.verdict.receipts, self.tree)
        )

    @property
    def is_final(self) -> bool:
        """Whether there is nothing to go on with; the other states can be resumed, with more budget or an answer."""
        return self.state in ("passed", "partial", "failed")

    @property
    def tests_passed(self) -> int:
        """Tests that passed on the files of the diff; one that ran several times counts once."""
        mine = (receipt for receipt in self.receipts if receipt.tree == self.tree)
        return len({case.name for receipt in mine for case in receipt.cases if case.outcome == "passed"})

    @property
    def execution_time(self) -> timedelta:
        """From the beginning to the end, in this process or several."""
        return timedelta(seconds=round(self.cost.seconds, 1))

    @property
    def total_duration(self) -> timedelta:
        """The same, by the name that autonomous tasks have for it."""
        return self.execution_time

    @property
    def deliverables(self) -> tuple[str, ...]:
        """Files that were made or changed."""
        return tuple(sorted({*self.files_created, *self.files_changed}))

    def __str__(self) -> str:
        files = f"{len(self.files_created)} files created, {len(self.files_changed)} changed"
        issues = "".join(f"\n- {issue}" for issue in self.issues)
        return f"{self.state}: {files}, {self.tests_passed} tests passed, {self.cost.calls} model calls{issues}"
