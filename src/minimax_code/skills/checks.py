"""What files have to pass that a model writes, and how they are put to it. All of it comes from elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from minimax_code.skills.candidates import Outcome
from minimax_code.skills.edits import definitions
from minimax_code.skills.mend import mended
from minimax_code.workbench.analysers import Analysers
from minimax_code.workbench.behaviour import behave
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.examples import Example
from minimax_code.workbench.files import CodeFile, write_inside
from minimax_code.workbench.findings import Findings
from minimax_code.workbench.receipt import Case, Receipt
from minimax_code.workbench.testrun import TestRun

_MOST_LINES = 40  # of a failure: what a small model can read, and more than a large one needs


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What checks of another kind have come to: how many they were, how many passed, and the first failure in words."""

    num_checks: int
    num_passed: int
    failure: str
    receipts: tuple[Receipt, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Checks:
    """Checks of the caller's.

    Attributes:
        tests: files of tests; they are laid over whatever the model writes.
        paths: tests of the workspace, by file or id; () are all of them, and None is none.
        commands: each has to end with 0.
        examples: calls and what they must come to.
        kept: names of cases that passed before; of all tests of the workspace, these have to pass still.
        may_write: whether a file of an answer counts, by its path; else it is left out.
        measure: runs checks of another kind on the files as they are.
    """

    tests: tuple[CodeFile, ...] = ()
    paths: tuple[str, ...] | None = None
    commands: tuple[tuple[str, ...], ...] = ()
    examples: tuple[Example, ...] = ()
    kept: frozenset[str] = frozenset()
    may_write: Callable[[str], bool] | None = None
    measure: Callable[[Workbench], Awaitable[Measured]] | None = None

    def __bool__(self) -> bool:
        given = (self.tests, self.paths is not None, self.commands, self.examples, self.kept, self.measure)
        return any(map(bool, given))


@dataclass(kw_only=True)
class Examiner:
    """Lays the files of one answer after the other on the same base, and checks them.

    Args:
        bench: where they run; None: nowhere, so that only what analysers read in them is known.
        base: the tree that every answer starts from.
        frozen: paths that no answer may change.
    """

    bench: Workbench | None
    checks: Checks
    base: str = ""
    frozen: frozenset[str] = frozenset()

    async def __call__(self, written: Sequence[CodeFile]) -> tuple[tuple[CodeFile, ...], Outcome]:
        """The files as they are kept if they are chosen, and what is known of them.

        Raises:
            SandboxError: nothing can be run.
        """
        fixed = {*self.frozen, *(test.path for test in self.checks.tests)}
        files = tuple(
            mended(file)
            for file in written
            if file.path not in fixed and (self.checks.may_write is None or self.checks.may_write(file.path))
        )
        if not files:
            return (), Outcome(failure="the answer has no file of its own", is_broken=True)
        files, found = await self._lay(files)
        outcome = Outcome(
            num_errors=sum(issue.severity == "high" for issue in found.issues),
            is_broken=bool(found.broken),
            findings=found,
            receipts=found.receipts,
        )
        if found.broken:
            issue = next(issue for issue in found.issues if issue.file in found.broken)
            return files, replace(outcome, failure=f"{issue.file}:{issue.line}: {issue.message}")
        if self.bench is not None:
            outcome = await run_checks(self.bench, self.checks, files, outcome)
        return files, outcome

    async def keep(self, files: Sequence[CodeFile]) -> None:
        """Leaves the base with these files in the workspace."""
        if self.bench is not None:
            await self.bench.workspace.restore(self.base)
            lay(self.bench, files)

    async def _lay(self, files: tuple[CodeFile, ...]) -> tuple[tuple[CodeFile, ...], Findings]:
        """The files as they lie on the base, formatted, and what analysers say of them."""
        if self.bench is None:
            return files, await Analysers().analyse(files, ())
        await self.keep(())
        formatted = [await self.bench.formatted(file) for file in files]
        files = tuple(file for file, _ in formatted)
        lay(self.bench, files)
        found = await self.bench.analyse([file.path for file in files], ())
        return files, replace(found, receipts=(*found.receipts, *(receipt for _, receipt in formatted if receipt)))


def lay(bench: Workbench, files: Sequence[CodeFile]) -> None:
    """Writes files into the workspace.

    Raises:
        WorkspaceError: a path leads out of it.
    """
    for file in files:
        write_inside(bench.workspace.path, file.path, file.content.encode(errors="replace"))


async def run_checks(bench: Workbench, checks: Checks, files: Sequence[CodeFile], outcome: Outcome) -> Outcome:
    """The outcome with what the checks say: examples, tests, commands, and where they pass what passed before.

    Args:
        files: in which the functions of examples are looked for.
    """
    lay(bench, checks.tests)
    if checks.examples:
        outcome = await _examples(bench, checks.examples, files, outcome)
    if checks.tests:
        outcome = _with_tests(outcome, await bench.run_tests([test.path for test in checks.tests]))
    if checks.paths is not None:
        outcome = _with_tests(outcome, await bench.run_tests(checks.paths))
    for command in checks.commands:
        ran = await bench.run(command, checked=f"whether `{' '.join(command)}` succeeds")
        told = "" if ran.succeeded else f"`{' '.join(command)}` fails:\n{_end(ran.output)}"
        outcome = _with(outcome, 1, int(ran.succeeded), told, ran.receipt)
    if checks.measure:
        found = await checks.measure(bench)
        outcome = _with(outcome, found.num_checks, found.num_passed, found.failure, *found.receipts)
    if checks.kept and not outcome.failure:
        outcome = _with_kept(outcome, await bench.run_tests(), checks.kept)
    return outcome


async def _examples(
    bench: Workbench, examples: Sequence[Example], files: Sequence[CodeFile], outcome: Outcome
) -> Outcome:
    tree = await bench.workspace.snapshot()
    for function in dict.fromkeys(example.function for example in examples):
        calls = [example for example in examples if example.function == function]
        path = file_with(function, files)
        if path is None:
            outcome = _with(outcome, len(calls), 0, f"no file defines the function `{function}`")
            continue
        ran = await behave(bench.sandbox, bench.workspace.path, path, calls, python=bench.python, tree=tree)
        outcome = _with(outcome, len(calls), ran.num_passed, ran.failure, ran.receipt)
        if ran.problem:
            outcome = replace(outcome, is_broken=True)
    return outcome


def file_with(function: str, files: Sequence[CodeFile]) -> str | None:
    """The first file that defines a function of Python."""
    return next((file.path for file in files if function in defined_in(file)), None)


def defined_in(file: CodeFile) -> list[str]:
    """The functions and classes at the top of a Python file; of what doesn't parse there are none."""
    try:
        return list(definitions(file.content)) if file.language == "python" else []
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _with_tests(outcome: Outcome, ran: TestRun) -> Outcome:
    """Cases that were skipped haven't passed."""
    num_passed = sum(case.outcome == "passed" for case in ran.cases)
    failed = next((case for case in ran.cases if case.outcome != "passed"), None)
    told = failure_of(failed) if failed else ""
    if not told and not ran.passed:
        told = f"the tests can't be run: {ran.problem or 'there are none'}\n{_end(ran.output)}".strip()
    return _with(outcome, max(len(ran.cases), 1), num_passed, told, ran.receipt)


def _with_kept(outcome: Outcome, ran: TestRun, kept: frozenset[str]) -> Outcome:
    """Cases that are not there any more haven't passed either."""
    now = {case.name: case for case in ran.cases}
    lost = sorted(name for name in kept if name not in now or now[name].outcome != "passed")
    told = ""
    if lost:
        case = now.get(lost[0])
        told = "passed before: " + (failure_of(case) if case else f"{lost[0]} is not there any more")
    return _with(outcome, len(kept), len(kept) - len(lost), told, ran.receipt)


def failure_of(case: Case) -> str:
    """A case that failed, with as much of what it said as is worth reading."""
    return f"{case.name} {case.outcome}:\n{_end(case.message)}".strip()


def _with(outcome: Outcome, num_checks: int, num_passed: int, failure: str, *receipts: Receipt) -> Outcome:
    return replace(
        outcome,
        num_checks=outcome.num_checks + num_checks,
        num_passed=outcome.num_passed + num_passed,
        failure=outcome.failure or failure,
        receipts=(*outcome.receipts, *receipts),
    )


def _end(text: str) -> str:
    """The last lines, where programs say what went wrong."""
    return "\n".join(text.strip().splitlines()[-_MOST_LINES:])
