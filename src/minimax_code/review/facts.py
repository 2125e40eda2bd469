"""What can be known of a change without a model: what analysers and tests say of both sides, and what is new."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath

from minimax_code.review.blame import Regression, find_causes
from minimax_code.review.change import Change
from minimax_code.review.config import ReviewConfig
from minimax_code.review.issue import Replacement, ReviewIssue
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.coverage import ChangedLines, of_changed
from minimax_code.workbench.files import path_problem, read_inside
from minimax_code.workbench.findings import Findings, Issue
from minimax_code.workbench.receipt import Case, Receipt
from minimax_code.workbench.running import Limits
from minimax_code.workbench.syntax import language_of
from minimax_code.workbench.testrun import TestRun, is_test

_MAX_RELATED = 60  # files that import what was changed
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
    found, receipts = await _new_findings(base, head, change, config, read)
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
        change.files[path].binary or not _is_file(head, path),
        language_of(path) is None and PurePosixPath(path).suffix not in (".json", ".toml"),
        any(fnmatch(path, pattern) for pattern in config.exclude),
        path_problem(path) is not None,
    )
    return next((why for applies, why in zip(checks, _NOT_READ, strict=True) if applies), "")


async def _new_findings(
    base: Workbench, head: Workbench, change: Change, config: ReviewConfig, read: Sequence[str]
) -> tuple[list[ReviewIssue], tuple[Receipt, ...]]:
    paths = [*read, *await _related(head, change, read)]
    old = {path: change.old_path(path) for path in paths}
    there = [old[path] for path in paths if _is_file(base, old[path])]
    here = [path for path in paths if _is_file(head, path)]
    before, after = await asyncio.gather(base.analyse(there, config.named), head.analyse(here, config.named))
    names = {name: path for path, name in old.items()}
    kinds = [_kind(issue, names.get(issue.file, issue.file)) for issue in before.issues]
    texts = [_line(base, issue.file, issue.line) for issue in before.issues]
    known, same = Counter(kinds), Counter(zip(kinds, texts, strict=True))
    return _not_known(head, change, after, known, same), (*before.receipts, *after.receipts)


def _not_known(
    head: Workbench, change: Change, after: Findings, known: Counter[_Kind], same: Counter[tuple[_Kind, str]]
) -> list[ReviewIssue]:
    """Findings of which there were fewer on the base; of several alike, those on lines that the base didn't have."""
    texts = {issue: _line(head, issue.file, issue.line) for issue in after.issues}
    left = []
    for issue in after.issues:
        place = (_kind(issue, issue.file), texts[issue])
        if same[place]:
            same[place] -= 1
            known[place[0]] -= 1
        else:
            left.append(issue)
    new = []
    touched = {path: file.touched for path, file in change.files.items()}
    for issue in sorted(left, key=lambda one: one.line in touched.get(one.file, ())):  # untouched lines take first
        kind = _kind(issue, issue.file)
        if known[kind] > 0:
            known[kind] -= 1
            continue
        new.append(
            ReviewIssue(
                severity=issue.severity, file=issue.file, line=issue.line, message=issue.message,
                suggestion=issue.suggestion, rule=issue.rule, evidence="tool", text=texts[issue],
                replacement=_replacement(head, issue),
            )
        )  # fmt: skip
    return new


async def _related(head: Workbench, change: Change, read: Sequence[str]) -> list[str]:
    """Files that import a changed one, as its types may have changed."""
    stems = {PurePosixPath(path).stem for path in read if path.endswith(".py") and not is_test(path)}
    stems |= {PurePosixPath(path).parent.name for path in read if path.endswith("__init__.py")}
    names = "|".join(re.escape(stem) for stem in sorted(stems - {"__init__", ""}))
    if not names:
        return []
    found = await head.search(rf"^\s*(from|import)\b.*\b({names})\b", glob="*.py", limit=1000)
    files = dict.fromkeys(match.file for match in found.matches)
    return [path for path in files if path not in change.files and not is_test(path)][:_MAX_RELATED]


async def _regressions(
    base: Workbench, head: Workbench, change: Change, before: TestRun, after: TestRun, limits: Limits
) -> tuple[list[ReviewIssue], list[str]]:
    """Tests that fail on the head alone, each with the lines that make it."""
    if after.problem and not after.cases:
        if before.problem:
            return [], [f"Tests of {after.suite} can't be run on either side: {after.problem}."]
        return [_cannot_run(change, after)], []
    passed = {case.name for case in before.cases if case.outcome == "passed"}
    known = {case.name for case in before.failures}
    failing = [case for case in after.failures if case.name in passed or case.name not in known]
    notes = [f"{len(known)} tests failed on the base already; they count for neither side."] if known else []
    missing = sorted(passed - {case.name for case in after.cases if case.outcome != "skipped"})
    if missing and not any(case.outcome == "error" for case in after.cases):
        notes.append(f"{len(missing)} tests that passed on the base aren't run any more: {', '.join(missing[:5])}.")
    if not failing:
        return [], notes
    steady = await _steady(head, failing, after, limits)
    if flaky := len(failing) - len(steady):
        notes.append(f"{flaky} tests failed once and then passed; they count for nothing.")
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
    count = len(old or names)
    tests = "1 test" if count == 1 else f"{count} tests"
    what = f"{tests} passed before this change, and no longer" if old else f"{tests} of the change fail"
    proof = " They pass again with these lines as they were." if regression.proven else ""
    return ReviewIssue(
        severity="high", file=regression.file, line=regression.line, rule="test:regression", evidence="test",
        message=f"{what}: {listed}.{proof}", details=regression.cases[0].message[-1500:],
        text=_line(head, regression.file, regression.line),
    )  # fmt: skip


def _cannot_run(change: Change, run: TestRun) -> ReviewIssue:
    path = next(iter(change.present), next(iter(change.files)))
    line = min(change.files[path].touched, default=1)
    return ReviewIssue(
        severity="high", file=path, line=line, rule="test:cannot-run", evidence="test",
        message=f"The tests of {run.suite} can't be run any more: {run.problem}.", details=run.output[-1500:],
    )  # fmt: skip


def _coverage(change: Change, sources: Sequence[str], runs: Sequence[TestRun]) -> ChangedLines | None:
    lines = {path: file for run in runs for path, file in run.lines.items()}
    changed = {path: change.files[path].added for path in sources if change.files[path].added}
    return of_changed(changed, lines) if lines else None


def _belongs(path: str, suite: str) -> bool:
    language = language_of(path)
    return language == "python" if suite == "python" else language in ("javascript",) and suite == "node"


_Kind = tuple[str, str, str]


def _kind(issue: Issue, path: str) -> _Kind:
    return path, issue.rule, re.sub(r"\d+", "0", issue.message)


def _line(bench: Workbench, path: str, line: int) -> str:
    lines = read_inside(bench.workspace.path, path).decode(errors="replace").splitlines()
    return lines[line - 1].strip() if 0 < line <= len(lines) else ""


def _replacement(bench: Workbench, issue: Issue) -> Replacement | None:
    """The lines from the issue's on as its fix leaves them; None where the fix begins on another."""
    edit = issue.edit
    text = read_inside(bench.workspace.path, issue.file).decode(errors="replace")
    if edit is None or edit.row != issue.line or any(odd in text for odd in "\r\ufeff\ufffd"):
        return None
    lines = text.split("\n")
    begun = lines[edit.row - 1][: edit.column - 1] + edit.content
    if edit.end_row == edit.row or edit.end_column > 1:
        whole = begun + lines[edit.end_row - 1][edit.end_column - 1 :]
        return Replacement(last_line=edit.end_row, lines=tuple(whole.split("\n")))
    if begun and not begun.endswith("\n"):  # it draws the next line up
        return None
    return Replacement(last_line=edit.end_row - 1, lines=tuple(begun.split("\n")[:-1]))


def _is_file(bench: Workbench, path: str) -> bool:
    place = bench.workspace.path / path
    return place.is_file() and not place.is_symlink()
