"""Reads and runs the checks of a contract, and says of those that aren't met why not."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from minimax_code.contract import Check, Contract
from minimax_code.errors import InputError
from minimax_code.work.frozen import read
from minimax_code.workbench.api import Api, look_up
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.files import path_problem
from minimax_code.workbench.receipt import Receipt
from minimax_code.workbench.running import Limits
from minimax_code.workbench.testrun import Suite, go_packages

LIMITS = Limits(seconds=600)
_RUNNERS: Mapping[Suite, tuple[tuple[str, ...], ...]] = {
    "python": (
        ("python", "-m", "pytest"), ("python3", "-m", "pytest"), ("pytest",),
        ("python", "-m", "unittest"), ("python3", "-m", "unittest"),
    ),
    "node": (("node", "--test"),),
    "go": (("go", "test"),),
}  # fmt: skip
_QUIET = ("-q", "-v", "-x", "--quiet", "--verbose")  # they change what is printed, or how soon it ends
_LINES = 40  # of a failing test, in what a worker is told
_EXIT = re.compile(r"exit (\d{1,3}):\s*(.*)", re.DOTALL)


def check_of(text: str, field: str = "check") -> Check:
    """Reads a check as people write it: a command, split as a shell would, or one of

        exit 2: python cart.py --wrong        it has to end with 2
        api: shop.cart:total(prices, tax=0)   code that can be called so
        file: docs/cart.md 'How to pay'       a file, and texts that it has

    Raises:
        InputError: it can't be read.
    """
    kind, _, rest = text.strip().partition(" ")
    if kind == "api:":
        Api.of(rest, field)
        return Check(command=(kind, rest.strip()))
    ending = _EXIT.fullmatch(text.strip())
    try:
        words = shlex.split(ending[2] if ending else text)
    except ValueError as error:
        raise InputError(field, f"{text!r} is no command: {error}") from error
    if not words:
        raise InputError(field, "is empty; name a command")
    if words[0] == "file:" and (problem := path_problem(words[1] if words[1:] else "")):
        raise InputError(field, f"{text!r} names no file: the path {problem}")
    return Check(command=tuple(words), exit_code=int(ending[1]) if ending else 0)


async def run_checks(contract: Contract, bench: Workbench) -> tuple[Receipt, ...]:
    """A receipt of each check, on the files of the bench as they are.

    Raises:
        SandboxError: the sandbox can't be started.
    """
    return tuple([await run_check(check, bench) for check in contract.checks])


async def run_check(check: Check, bench: Workbench) -> Receipt:
    """Runs one; those that run tests by our own runners, which take outcomes from no text that tests print."""
    receipt = await _look_up(check.command, bench) or await _run(check.command, bench)
    return receipt.model_copy(update={"command": check.command})


async def _run(command: Sequence[str], bench: Workbench) -> Receipt:
    tests = tests_of(command)
    if tests is None:
        ran = await bench.run(command, limits=LIMITS)
        return ran.receipt.model_copy(update={"checked": _tail(ran.output)})
    suite, paths = tests
    run = await bench.run_tests(paths, suite=suite, limits=LIMITS)
    believed = {} if run.passed or run.receipt.exit_code else {"exit_code": None}
    return run.receipt.model_copy(update={"checked": run.summary, **believed})


async def _look_up(command: Sequence[str], bench: Workbench) -> Receipt | None:
    """What is found out without a program."""
    match command:
        case ("api:", text):
            return await look_up(Api.of(text), bench)
        case ("file:", path, *texts):
            problem = _lack(bench.workspace.path, path, texts)
            tree, told = await bench.workspace.snapshot(), problem or f"{path} is there, with {len(texts)} texts"
            return Receipt(command=(), tree=tree, exit_code=int(bool(problem)), checked=told)
    return None


def _lack(folder: Path, path: str, texts: Sequence[str]) -> str:
    found = read(folder, path)
    if found is None:
        return f"there is no text file {path}"
    return next((f"{path} lacks {text!r}" for text in texts if text not in found), "")


def command_of(suite: Suite, paths: Sequence[str] = ()) -> tuple[str, ...]:
    """The command that runs tests, as people write it."""
    if suite == "go":
        return (*_RUNNERS[suite][0], *(go_packages(paths) or ["./..."]))
    return (*_RUNNERS[suite][0], *paths)


def tests_of(command: Sequence[str]) -> tuple[Suite, list[str]] | None:
    """Which tests a command runs; None where it is another command, or has options that change what counts."""
    for suite, starts in _RUNNERS.items():
        start = next((start for start in starts if tuple(command[: len(start)]) == start), None)
        if start:
            paths = [word for word in command[len(start) :] if word not in _QUIET]
            unread = "unittest" in start and not all(path.endswith(".py") for path in paths)  # names of modules
            return None if unread or any(word.startswith("-") for word in paths) else (suite, paths)
    return None


def complaints(contract: Contract, receipts: Sequence[Receipt], tree: str) -> tuple[str, ...]:
    """What a worker is told of checks that aren't met: of each the first failure, not the whole log."""
    return tuple(_complaint(check, receipts) for check in contract.unmet(receipts, tree))


def _complaint(check: Check, receipts: Sequence[Receipt]) -> str:
    command = check.text
    receipt = next((receipt for receipt in reversed(receipts) if receipt.command == check.command), None)
    if receipt is None:
        return f"`{command}` was not run."
    if check.is_looked_up:
        return f"`{command}`: {receipt.checked}."
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
