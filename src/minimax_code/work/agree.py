"""What a task will be measured by, fixed before anybody works on it."""

from __future__ import annotations

import re

from minimax_code.contract import Check, Contract
from minimax_code.model import Model
from minimax_code.work.acceptance import AcceptanceTest, write_acceptance_test
from minimax_code.work.checks import command_of, run_checks
from minimax_code.work.dialect import dialect_of
from minimax_code.work.frozen import read
from minimax_code.work.kind import kind_of
from minimax_code.work.task import Task
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.files import path_problem
from minimax_code.workbench.running import Limits
from minimax_code.workbench.testrun import is_test

_LIMITS = Limits(seconds=300)


async def agree(task: Task, *, model: Model, bench: Workbench) -> Contract:
    """The user's checks, or a test that a model has written and that fails without the work; and in both cases what
    passes already has to pass afterwards too. All of it is tried out in a copy.

    No test can fail without work that changes nothing of what code does. Then it is what passes already, and for tests
    that are to be written, that all pass.

    Raises:
        ModelError: the model can't be asked.
        BudgetError: there is nothing left to ask it with.
        SandboxError: the sandbox can't be started.
    """
    notes: list[str] = []
    kind, kept = kind_of(task.description), await _what_passes(bench, notes)
    if task.checks:
        contract = await _of_user(task, bench)
    elif kind in (None, "behaviour"):
        async with bench.copy() as copy:
            test = await write_acceptance_test(task, model=model, bench=copy)
        contract = _of_test(test)
        notes += contract.notes
    else:
        contract = Contract(checks=tuple(kept))
        if kind == "tests" and not kept:
            dialect, _ = await dialect_of(task.text, bench)
            contract = Contract(checks=(Check(command=command_of(dialect.suite)),))
    commands = {check.command for check in contract.checks}
    checks = (*contract.checks, *(check for check in kept if commands and check.command not in commands))
    return contract.model_copy(
        update={
            "checks": checks,
            "forbidden": task.forbidden,
            "min_coverage": task.min_coverage,
            "notes": tuple(notes),
        }
    )


async def _of_user(task: Task, bench: Workbench) -> Contract:
    """The user's checks. Files of tests that they name, and those whose tests fail now, are frozen: they are what the
    work is about."""
    contract = Contract(checks=task.commands)
    async with bench.copy() as copy:
        receipts = await run_checks(contract, copy)
    failed = [case.name for receipt in receipts for case in receipt.cases if case.outcome in ("failed", "error")]
    words = [word for check in task.commands if not check.is_looked_up for word in check.command]
    named = {re.split("::| > ", word)[0] for word in (*words, *failed)}
    named |= {f"{word.replace('.', '/')}.py" for word in words}  # as unittest names modules
    paths = sorted(path for path in named if is_test(path) and not path_problem(path))
    texts = {path: read(bench.workspace.path, path) for path in paths}
    frozen = {path: text for path, text in texts.items() if text is not None}
    return contract.model_copy(update={"frozen": frozen, "failed_before": tuple(dict.fromkeys(failed))})


def _of_test(test: AcceptanceTest | list[str]) -> Contract:
    if isinstance(test, AcceptanceTest):
        return Contract(checks=(test.check,), frozen={test.path: test.text}, origin="model", failed_before=test.failed)
    notes = tuple(f"an acceptance test was not agreed on: {problem}" for problem in test)
    return Contract(checks=(), origin="model", notes=notes)


async def _what_passes(bench: Workbench, notes: list[str]) -> list[Check]:
    """The tests that are there and pass, as a check. Where some fail, whatever else fails has failed before too."""
    found = []
    for suite in bench.suites():
        async with bench.copy() as copy:
            run = await copy.run_tests(suite=suite, limits=_LIMITS)
        passed = tuple(case.name for case in run.cases if case.outcome == "passed")
        if run.receipt.exit_code is None:
            notes.append(f"the {suite} tests that are there don't end: {run.summary}; they are not part of the checks")
        elif passed:
            found.append(Check(command=command_of(suite), exit_code=0 if run.passed else None, cases=passed))
    return found
