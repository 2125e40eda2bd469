"""What a model says of a change, each finding tried by a test: it counts most where that fails on the head alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from minimax_code.model import Model, Usage
from minimax_code.review.change import Change
from minimax_code.review.facts import Facts
from minimax_code.review.issue import Evidence, ReviewIssue
from minimax_code.skills import review as finders
from minimax_code.skills.checks import lay
from minimax_code.skills.effort import Effort
from minimax_code.skills.reproduce import reproduce
from minimax_code.skills.solution import Solution
from minimax_code.skills.sources import files_of
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.files import CodeFile
from minimax_code.workbench.findings import Findings, Issue
from minimax_code.workbench.receipt import Receipt
from minimax_code.workbench.testrun import is_test

_NEAR = 3  # lines from what was changed


@dataclass(frozen=True, kw_only=True)
class Opinions:
    """Of a model.

    Attributes:
        read: files that the model has read.
        dropped: findings that a test refuted, or that are not about the change.
    """

    issues: tuple[ReviewIssue, ...] = ()
    read: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    receipts: tuple[Receipt, ...] = ()
    usage: Usage = field(default_factory=Usage)


async def gather_opinions(
    model: Model,
    old: Workbench,
    new: Workbench,
    change: Change,
    facts: Facts,
    effort: Effort,
    standards: Sequence[CodeFile] = (),
) -> Opinions:
    """Has the changed files read, and a test written for each mistake that is near a changed line.

    What breaks one of the project's standards isn't tried: it may well do what it should.

    Raises:
        InputError: the standards are too long for the model.
        ModelError: there is no answer.
        SandboxError: the sandbox can't be started.
    """
    paths = [path for path in facts.read if not is_test(path) and change.files[path].touched]
    known = tuple(
        Issue(severity=one.severity, file=one.file, line=one.line, message=one.message, suggestion=None, rule=one.rule)
        for one in facts.issues
    )
    findings = Findings(issues=known, receipts=(), num_lines=0)
    changed = {path: change.files[path].touched for path in paths}
    found = await finders.review(
        model, files_of(new, paths), findings, standards=standards, effort=effort, changed=changed
    )
    said = [issue for issue in found.findings.issues if issue not in known]
    about = [issue for issue in said if _is_near(change, issue)]
    dropped = [f"{_told(issue)} (not about this change)" for issue in said if issue not in about]
    issues: list[ReviewIssue] = []
    receipts: list[Receipt] = []
    usage = found.usage
    for issue in about:
        if issue.rule.startswith(finders.STANDARD):
            issues.append(_as_said(issue, issue.rule))
            continue
        async with new.copy() as copy:
            test = await reproduce(model, copy, _told(issue), paths=[issue.file], effort=effort)
        usage += test.usage
        receipts += test.receipts
        if test.verdict != "verified" and any("the test passes" in note for note in test.notes):
            dropped.append(f"{_told(issue)} (a test that was to show it passes)")
            continue
        issues.append(await _weighed(old, issue, test))
    return Opinions(
        issues=tuple(issues),
        read=found.read,
        dropped=tuple(dropped),
        notes=found.notes,
        receipts=tuple(receipts),
        usage=usage,
    )


async def _weighed(old: Workbench, issue: Issue, test: Solution) -> ReviewIssue:
    """A finding by the evidence for it: a test that fails on the head, and passes on the base, shows it."""
    shown = False
    if test.verdict == "verified":
        async with old.copy() as copy:
            lay(copy, test.files)
            shown = (await copy.run_tests([file.path for file in test.files])).passed
    details = "\n".join(file.content for file in test.files)[:1500]
    return _as_said(issue, "model:reproduced" if shown else "model:said", "test" if shown else "model", details)


def _as_said(issue: Issue, rule: str, evidence: Evidence = "model", details: str = "") -> ReviewIssue:
    return ReviewIssue(
        severity=issue.severity,
        file=issue.file,
        line=issue.line,
        message=issue.message,
        rule=rule,
        evidence=evidence,
        details=details,
    )


def _is_near(change: Change, issue: Issue) -> bool:
    file = change.files.get(issue.file)
    return file is not None and any(abs(line - issue.line) <= _NEAR for line in file.touched)


def _told(issue: Issue) -> str:
    return f"{issue.file}:{issue.line}: {issue.message}"
