"""A result can't claim what its receipts don't show."""

from __future__ import annotations

import itertools

import pytest

from minimax_code.contract import Check, Contract, Verdict
from minimax_code.work.result import TaskResult
from minimax_code.workbench.receipt import Case, Receipt

TESTS = ("python", "-m", "pytest", "tests")
CONTRACT = Contract(checks=(Check(command=TESTS, cases=("test_a",)),), frozen={"tests/test_a.py": "assert f() == 1\n"})


def run(
    *outcomes: tuple[str, str], tree: str = "new", exit_code: int | None = 0, command: tuple[str, ...] = TESTS
) -> Receipt:
    cases = tuple(Case.model_validate({"name": name, "outcome": outcome}) for name, outcome in outcomes)
    return Receipt(command=command, tree=tree, exit_code=exit_code, sandbox="bubblewrap", cases=cases)


def result(*receipts: Receipt, state: str = "passed", outcome: str = "PASS", tree: str = "new") -> TaskResult:
    verdict = Verdict.model_validate({"outcome": outcome, "tree": "new", "receipts": receipts})
    return TaskResult.model_validate(
        {"state": state, "tree": tree, "contract": CONTRACT, "verdict": verdict, "receipts": receipts}
    )


GREEN = run(("test_a", "passed"), ("test_b", "skipped"))


def test_green_on_the_files_of_the_result_is_success() -> None:
    assert result(GREEN).success
    assert result(GREEN, GREEN).tests_passed == 1


@pytest.mark.parametrize(
    "receipt",
    [
        run(("test_a", "passed"), tree="old"),
        run(("test_a", "passed"), exit_code=1),
        run(("test_a", "passed"), exit_code=None),
        run(("test_a", "passed"), command=("true",)),
        run(("test_a", "skipped")),
        run(("test_b", "passed")),
        run(("test_a", "passed"), ("test_b", "failed")),
        run(),
    ],
    ids=["edited since", "red", "never ended", "another command", "skipped", "removed", "another failed", "no tests"],
)
def test_everything_else_is_none_whatever_the_state_says(receipt: Receipt) -> None:
    assert not result(receipt).success


def test_nor_is_a_green_run_that_nobody_verified() -> None:
    assert not result(GREEN, outcome="PARTIAL").success
    assert not result(GREEN, state="partial").success
    assert not TaskResult(state="passed", tree="new", contract=CONTRACT, receipts=(GREEN,)).success
    assert not result(GREEN, tree="newer").success


def test_success_needs_a_green_run_after_the_last_edit() -> None:
    """Whatever happens in whatever order: a law over all stories of six steps."""
    successes = 0
    for story in itertools.product(("edit", "green", "red", "verified"), repeat=6):
        tree, receipts, verdict = 0, list[Receipt](), None
        for step in story:
            if step == "edit":
                tree += 1
            elif step == "verified":
                verdict = Verdict(outcome="PASS", tree=str(tree), receipts=tuple(receipts))
            else:
                receipts.append(run(("test_a", "passed" if step == "green" else "failed"), tree=str(tree)))
        told = TaskResult(state="passed", tree=str(tree), contract=CONTRACT, verdict=verdict, receipts=tuple(receipts))
        since = story[len(story) - story[::-1].index("edit") if "edit" in story else 0 :]
        assert told.success == ("green" in since and "verified" in since[since.index("green") :]), story
        successes += told.success
    assert 0 < successes < 4**6 / 2


def test_no_checks_are_never_met() -> None:
    assert not Contract(checks=()).is_met_by([GREEN], "new")


def test_a_result_is_stored_and_read_again() -> None:
    stored = TaskResult.model_validate_json(result(GREEN).model_dump_json())
    assert stored == result(GREEN)
    assert str(stored) == "passed: 0 files created, 0 changed, 1 tests passed, 0 model calls"
