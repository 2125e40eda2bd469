"""Which findings of analysers are new with a change, and how much they weigh for those who keep the code."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from pathlib import PurePosixPath

from minimax_code.review.change import Change
from minimax_code.review.config import ReviewConfig
from minimax_code.review.issue import Replacement, ReviewIssue
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.files import read_inside
from minimax_code.workbench.findings import Issue, Severity
from minimax_code.workbench.receipt import Receipt
from minimax_code.workbench.testrun import is_test

_MAX_RELATED = 60  # files that import what was changed
_TEST_FOLDERS = {"test", "tests", "testing"}
_MINOR_IN_TESTS = ("ruff:B", "ruff:F4", "ruff:F5", "ruff:F841")
_NOT_OF_TESTS = ("bandit:", "ruff:S")  # tests assert, and their secrets are none


async def new_findings(
    base: Workbench, head: Workbench, change: Change, config: ReviewConfig, read: Sequence[str]
) -> tuple[list[ReviewIssue], tuple[Receipt, ...]]:
    """What analysers say of the head, in files of the change or in those that import them, and not of the base.

    Raises:
        SandboxError: the sandbox can't be started.
    """
    paths = [*read, *await _related(head, change, read)]
    old = {path: change.old_path(path) for path in paths}
    there = [old[path] for path in paths if is_file(base, old[path])]
    here = [path for path in paths if is_file(head, path)]
    before, after = await asyncio.gather(base.analyse(there, config.named), head.analyse(here, config.named))
    names = {name: path for path, name in old.items()}
    known = [(issue, names.get(issue.file, issue.file), _line(base, issue)) for issue in before.issues]
    untyped = {path for issue, path, _ in known if issue.rule.startswith("mypy:")}
    if untyped:  # a new file is held to what the others are
        untyped |= {path for path in here if not is_file(base, old[path])}
    untyped |= {path for path in here if _has_types(head, path) and not _has_types(base, old[path])}
    issues = [
        ReviewIssue(
            severity=_weight(issue, untyped), file=issue.file, line=issue.line, message=issue.message,
            suggestion=issue.suggestion, rule=issue.rule, evidence="tool", text=_line(head, issue),
            replacement=_replacement(head, issue),
        )
        for issue in _not_known(head, change, after.issues, known)
        if not (_is_of_tests(issue.file) and issue.rule.startswith(_NOT_OF_TESTS))
    ]  # fmt: skip
    return issues, (*before.receipts, *after.receipts)


def is_file(bench: Workbench, path: str) -> bool:
    """Whether a path is a file there, and no link."""
    place = bench.workspace.path / path
    return place.is_file() and not place.is_symlink()


def line_at(bench: Workbench, path: str, line: int) -> str:
    """A line of a file without its indentation; "" where there is none."""
    lines = read_inside(bench.workspace.path, path).decode(errors="replace").splitlines()
    return lines[line - 1].strip() if 0 < line <= len(lines) else ""


def _weight(issue: Issue, untyped: Set[str]) -> Severity:
    """How much a finding weighs: types count where the file kept to them, in tests only what fails."""
    if issue.rule.startswith("mypy:") and issue.file in untyped:
        return "low"
    if issue.rule.startswith(_MINOR_IN_TESTS) and _is_of_tests(issue.file):
        return "low"
    return issue.severity


def _has_types(bench: Workbench, path: str) -> bool:
    """Whether a file says of any function what it returns; mypy reads no other ones."""
    return not is_file(bench, path) or b"->" in read_inside(bench.workspace.path, path)


def _is_of_tests(path: str) -> bool:
    return is_test(path) or not _TEST_FOLDERS.isdisjoint(PurePosixPath(path).parts)


def _not_known(
    head: Workbench, change: Change, found: Sequence[Issue], known: Sequence[tuple[Issue, str, str]]
) -> Iterator[Issue]:
    """Findings of which there were fewer on the base; of several alike, those on lines that the base didn't have.

    Args:
        known: findings of the base, with the file's name on the head, and the line's text.
    """
    kinds = Counter(_kind(issue, path) for issue, path, _ in known)
    lines: dict[tuple[str, str, str], list[str]] = {}
    for issue, path, text in known:
        lines.setdefault((path, issue.rule, text), []).append(_kind(issue, path)[2])
    left = []
    for issue in found:
        same = lines.get((issue.file, issue.rule, _line(head, issue)))
        if same:  # what is said of the line may have changed with a name
            message = _kind(issue, issue.file)[2]
            same.remove(gone := message if message in same else same[0])
            kinds[issue.file, issue.rule, gone] -= 1
        else:
            left.append(issue)
    touched = {path: file.touched for path, file in change.files.items()}
    for issue in sorted(left, key=lambda one: one.line in touched.get(one.file, ())):  # untouched lines take first
        kind = _kind(issue, issue.file)
        if kinds[kind] > 0:
            kinds[kind] -= 1
        else:
            yield issue


def _kind(issue: Issue, path: str) -> tuple[str, str, str]:
    return path, issue.rule, re.sub(r"\d+", "0", issue.message)


def _line(bench: Workbench, issue: Issue) -> str:
    return line_at(bench, issue.file, issue.line)


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
