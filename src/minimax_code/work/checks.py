"""Runs the checks of a contract, and says of those that aren't met why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from minimax_code.contract import Check, Contract
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.receipt import Receipt
from minimax_code.workbench.running import Limits
from minimax_code.workbench.testrun import Suite

LIMITS = Limits(seconds=600)
_RUNNERS: Mapping[Suite, tuple[tuple[str, ...], ...]] = {
    "python": (("python", "-m", "pytest"), ("python3", "-m", "pytest"), ("pytest",)),
    "node": (("node", "--test"),),
    "go": (("go", "test", "./..."),),
}
_QUIET = ("-q", "-v", "-x", "--quiet", "--verbose")  # they change what is printed, or how soon it ends
_LINES = 40  # of a failing test, in what a worker is told


async def run_checks(contract: Contract, bench: Workbench) -> tuple[Receipt, ...]:
    """A receipt of each check, on the files of the bench as they are.

    Raises:
        SandboxError: the sandbox can't be started.
    """
    return tuple([await run_check(check, bench) for check in contract.checks])


async def run_check(check: Check, bench: Workbench) -> Receipt:
    """Runs one; those that run tests by our own runners, which take outcomes from no text that tests print."""
    tests = tests_of(check.command)
    if tests is None:
        ran = await bench.run(check.command, limits=LIMITS)
        return ran.receipt.model_copy(update={"checked": _tail(ran.output)})
    suite, paths = tests
    run = await bench.run_tests(paths, suite=suite, limits=LIMITS)
    believed = {} if run.passed or run.receipt.exit_code else {"exit_code": None}
    return run.receipt.model_copy(update={"command": check.command, "checked": run.summary, **believed})


def command_of(suite: Suite, paths: Sequence[str] = ()) -> tuple[str, ...]:
    """The command that runs tests, as people write it."""
    return (*_RUNNERS[suite][0], *paths)


def tests_of(command: Sequence[str]) -> tuple[Suite, list[str]] | None:
    """Which tests a command runs; None where it is another command, or has options that change what counts."""
    for suite, starts in _RUNNERS.items():
        start = next((start for start in starts if tuple(command[: len(start)]) == start), None)
        if start:
            paths = [word for word in command[len(start) :] if word not in _QUIET]
            return None if any(word.startswith("-") for word in paths) else (suite, paths)
    return None


def complaints(contract: Contract, receipts: Sequence[Receipt], tree: str) -> tuple[str, ...]:
    """What a worker is told of checks that aren't met: of each the first failure, not the whole log."""
    return tuple(_complaint(check, receipts) for check in contract.unmet(receipts, tree))


def _complaint(check: Check, receipts: Sequence[Receipt]) -> str:
    command = " ".join(check.command)
    receipt = next((receipt for receipt in reversed(receipts) if receipt.command == check.command), None)
    if receipt is None:
        return f"`{command}` was not run."
    outcomes = {case.name: case for case in receipt.cases}
    wanted = [outcomes[name] for name in check.cases if name in outcomes]
    failing = next((case for case in (*wanted, *receipt.cases) if case.outcome in ("failed", "error")), None)
    if failing:
        return f"`{command}`: {failing.name} {failing.outcome}:\n{_tail(failing.message)}"
    for name in check.cases:
        if name not in outcomes or outcomes[name].outcome != "passed":
            return f"`{command}`: {name} was {outcomes[name].outcome if name in outcomes else 'not run'}."
    ended = "didn't end by itself" if receipt.exit_code is None else f"ended with {receipt.exit_code}"
    return f"`{command}` {ended}:\n{receipt.checked}"


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-_LINES:])
