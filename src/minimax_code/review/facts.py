"""What can be known of a change without a model: what analysers and tests say of both sides, and what is new."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath

from minimax_code.review.blame import Regression, find_causes
from minimax_code.review.change import Change
from minimax_code.review.config import ReviewConfig
from minimax_code.review.issue import ReviewIssue, counted
from minimax_code.review.new_findings import is_file, line_at, new_findings
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.coverage import ChangedLines, of_changed
from minimax_code.workbench.files import path_problem
from minimax_code.workbench.receipt import Case, Receipt
from minimax_code.workbench.running import Limits
from minimax_code.workbench.syntax import language_of
from minimax_code.workbench.testrun import TestRun, is_test

_NO_MODULE = re.compile(r"^E? *ModuleNotFoundError: No module named '([\w.]+)'", re.MULTILINE)
_NOT_READ = (
    "is binary or a link",
    "is of a kind that nothing here reads",
    "is excluded",
    "has a name that can't be used",
)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Of both sides of a change.

    Attributes:
        issues: what is new on the head, not in order.
        base_runs, head_runs: of each suite that there is.
        coverage: of the changed lines; None where nothing was measured.
        read: files that were looked at.
        unread: files that weren't, and why.
        notes: what a reader has to know besides.
    """

    issues: tuple[ReviewIssue, ...]
    base_runs: tuple[TestRun, ...]
    head_runs: tuple[TestRun, ...]
    coverage: ChangedLines | None
    read: tuple[str, ...]
    unread: Mapping[str, str]
    receipts: tuple[Receipt, ...]
    notes: tuple[str, ...] = ()

    @property
    def test_summary(self) -> str:
        """In a line."""
        if not self.head_runs:
            return "no tests"
        return "; ".join(f"{run.suite}: {run.summary}" for run in self.head_runs)


async def gather(base: Workbench, head: Workbench, change: Change, config: ReviewConfig) -> Facts:
    """Runs analysers and tests on both sides.

    Raises:
        SandboxError: the sandbox can't be started.
    """
    unread = {path: why for path in change.present if (why := _why_unread(head, change, path, config))}
    read = tuple(path for path in change.present if path not in unread)
    found, receipts = await new_findings(base, head, change, config, read)
    sources = [path for path in read if not is_test(path)]
    limits = Limits(seconds=config.test_seconds)
    issues: list[ReviewIssue] = found
    idle = dict.fromkeys((one.command[0], one.checked) for one in receipts if one.checked.startswith("nothing: "))
    notes = [f"{tool} has read {checked}." for tool, checked in idle]
    base_runs: list[TestRun] = []
    head_runs: list[TestRun] = []
    for suite in head.suites():
        before, after = await asyncio.gather(
            base.run_tests(suite=suite, limits=limits),
            head.run_tests(suite=suite, limits=limits, covered=[path for path in sources if _belongs(path, suite)]),
        )
        base_runs.append(before)
        head_runs.append(after)
        wrong, told = await _regressions(base, head, change, before, after, limits)
        issues += wrong
        notes += told
    coverage = _coverage(change, sources, head_runs)
    if not head_runs:
        notes.append("There are no tests that could be run, so nothing is said of what the change does.")
    return Facts(
        issues=tuple(issues),
        base_runs=tuple(base_runs),
        head_runs=tuple(head_runs),
        coverage=coverage,
        read=read,
        unread=unread,
        receipts=(*receipts, *(run.receipt for run in (*base_runs, *head_runs))),
        notes=tuple(notes),
    )


def _why_unread(head: Workbench, change: Change, path: str, config: ReviewConfig) -> str:
    checks = (
        change.files[path].binary or not is_file(head, path),
        language_of(path) is None and PurePosixPath(path).suffix not in (".json", ".toml"),
        any(fnmatch(path, pattern) for pattern in config.exclude),
        path_problem(path) is not None,
    )
    return next((why for applies, why in zip(checks, _NOT_READ, strict=True) if applies), "")


async def _regressions(
    base: Workbench, head: Workbench, change: Change, before: TestRun, after: TestRun, limits: Limits
) -> tuple[list[ReviewIssue], list[str]]:
    """Tests that fail on the head alone, each with the lines that make it."""
    if after.problem and not after.cases:
        if before.problem:
            return [], [f"Tests of {after.suite} can't be run on either side: {_why(after)}."]
        return [_cannot_run(change, after)], []
    passed = {case.name for case in before.cases if case.outcome == "passed"}
    known = {case.name for case in before.failures}
    failing = [case for case in after.failures if case.name in passed or case.name not in known]
    notes = (
        [f"{counted(len(known), 'test')} failed on the base already; that counts for neither side."] if known else []
    )
    if needed := sorted({name for case in before.failures if (name := _absent(base, case))}):
        notes.append(f"Not installed here: {', '.join(needed)}. Name the project's own interpreter (--python).")
    absent = {case.name: name for case in failing if (name := _absent(head, case))}
    failing = [case for case in failing if case.name not in absent]
    notes += [f"{path} can't be run here: {name} is not installed." for path, name in absent.items()]
    missing = sorted(passed - {case.name for case in after.cases if case.outcome != "skipped"})
    if missing and not any(case.outcome == "error" for case in after.cases):
        names = ", ".join(missing[:5])
        notes.append(f"{counted(len(missing), 'test')} passed on the base and aren't run any more: {names}.")
    if not failing:
        return [], notes
    steady = await _steady(head, failing, after, limits)
    if flaky := len(failing) - len(steady):
        notes.append(f"{counted(flaky, 'test')} failed once and then passed; that counts for nothing.")
    regressions = await find_causes(head, change, after, steady, limits)
    return [_as_issue(head, one, passed) for one in regressions], notes


async def _steady(head: Workbench, failing: Sequence[Case], run: TestRun, limits: Limits) -> list[Case]:
    """Those that fail a second time."""
    if run.suite != "python":
        return list(failing)
    again = await head.run_tests([case.name for case in failing], suite=run.suite, limits=limits)
    bad = {case.name for case in again.failures}
    return [case for case in failing if case.name in bad or again.problem]


def _as_issue(head: Workbench, regression: Regression, passed: set[str]) -> ReviewIssue:
    names = [case.name for case in regression.cases]
    old = [name for name in names if name in passed]
    listed = ", ".join(f"`{name}`" for name in (old or names)[:3]) + (", ..." if len(old or names) > 3 else "")
    tests = counted(len(old or names), "test")
    what = f"{tests} passed before this change, and no longer" if old else f"{tests} of the change fail"
    proof = " They pass again with these lines as they were." if regression.proven else ""
    return ReviewIssue(
        severity="high", file=regression.file, line=regression.line, rule="test:regression", evidence="test",
        message=f"{what}: {listed}.{proof}", details=regression.cases[0].message[-1500:],
        text=line_at(head, regression.file, regression.line),
    )  # fmt: skip


def _absent(head: Workbench, case: Case) -> str:
    """The package that tests can't be read without and that neither the change nor the machine has, or ""."""
    found = _NO_MODULE.search(case.message) if case.outcome == "error" else None
    if not found:
        return ""
    name = found[1].partition(".")[0]
    places = (head.workspace.path / folder / f"{name}{end}" for folder in ("", "src") for end in ("", ".py"))
    return "" if any(place.exists() for place in places) else name


def _why(run: TestRun) -> str:
    """Why tests couldn't be run, with the last that they said of it."""
    said = [line.strip() for line in run.output.splitlines() if line.strip()]
    errors = [line for line in said if re.match(r"(E  |ERROR|.*\berror:)", line)] or said
    return f"{run.problem}: {errors[-1][:200]}" if errors else run.problem


def _cannot_run(change: Change, run: TestRun) -> ReviewIssue:
    """It stands at the changed file that is named last, by which pytest says where it came to an end."""
    named = sorted((path for path in change.present if path in run.output), key=run.output.rindex)
    sources = (path for path in change.present if language_of(path))
    path = named[-1] if named else next(sources, next(iter(change.files)))
    line = min(change.files[path].touched, default=1)
    return ReviewIssue(
        severity="high", file=path, line=line, rule="test:cannot-run", evidence="test",
        message=f"The tests of {run.suite} can't be run any more: {run.problem}.", details=run.output[-1500:],
    )  # fmt: skip


def _coverage(change: Change, sources: Sequence[str], runs: Sequence[TestRun]) -> ChangedLines | None:
    lines = {path: file for run in runs if run.cases for path, file in run.lines.items()}
    changed = {path: change.files[path].added for path in sources if change.files[path].added}
    return of_changed(changed, lines) if lines else None


def _belongs(path: str, suite: str) -> bool:
    language = language_of(path)
    return language == "python" if suite == "python" else language in ("javascript",) and suite == "node"
