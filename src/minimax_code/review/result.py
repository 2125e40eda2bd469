"""What a review comes to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from minimax_code.model import Usage
from minimax_code.record import Record
from minimax_code.review.change import Change, Hunk
from minimax_code.review.config import ReviewConfig
from minimax_code.review.issue import ReviewIssue
from minimax_code.workbench.receipt import Receipt


class Comment(Record):
    """What stands on lines of the head's diff.

    Attributes:
        line: the last of them.
        start_line: the first, where they are several.
    """

    path: str
    line: int
    start_line: int | None = None
    side: Literal["LEFT", "RIGHT"] = "RIGHT"
    body: str
    fingerprint: str


class Patch(Record):
    """A commit that the review has made for a reason, with what it was tried by.

    Attributes:
        title: the commit's first line.
        patch: as `git apply` takes it, on the head with the patches before it.
        fingerprints: of the issues that are gone with it; none where it adds tests.
    """

    title: str
    patch: str
    fingerprints: tuple[str, ...] = ()
    receipts: tuple[Receipt, ...] = ()


class Review(Record):
    """A review of a change.

    Attributes:
        base, head: the commits.
        files: those that were read.
        unread: those that weren't, and why.
        issues: what the change makes worse, the best proven first.
        comments: the issues that stand on lines.
        auto_fixes, auto_tests: commits on top of the head, in this order.
        test_summary: of the head's tests, in a line.
        coverage: percent of the changed lines that tests run; None where that isn't known, or none can run.
        uncovered: changed lines that no test runs.
        min_coverage: what was asked for.
        dropped: what a model said and nothing confirmed.
        notes: what a reader has to know besides.
        usage: what the model was asked and has said.
        model: its name, or None where there was none.
        read_by_model: files that it has read; none where it can't judge, by its calibration.
    """

    base: str
    head: str
    files: tuple[str, ...]
    unread: Mapping[str, str]
    issues: tuple[ReviewIssue, ...]
    comments: tuple[Comment, ...] = ()
    auto_fixes: tuple[Patch, ...] = ()
    auto_tests: tuple[Patch, ...] = ()
    test_summary: str = ""
    coverage: float | None = None
    uncovered: Mapping[str, tuple[int, ...]] = {}
    min_coverage: float | None = None
    receipts: tuple[Receipt, ...] = ()
    notes: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    usage: Usage = Usage()
    model: str | None = None
    read_by_model: tuple[str, ...] = ()

    @property
    def enough_covered(self) -> bool:
        """Whether the changed lines are run as was asked; what isn't known isn't enough."""
        if self.min_coverage is None or self.min_coverage == 0:
            return True
        return self.coverage is not None and self.coverage >= self.min_coverage

    @property
    def passed(self) -> bool:
        """Whether nothing of weight was found, and enough is covered."""
        return self.enough_covered and all(issue.severity == "low" for issue in self.issues)


def comments_of(issues: Iterable[ReviewIssue], change: Change, config: ReviewConfig) -> tuple[Comment, ...]:
    """The issues that stand on lines: those of weight whose line the diff shows, as many as are allowed.

    Style never does, of what nothing but a model says only a few do, and an analyser says the same of a file once.
    """
    chosen: dict[tuple[str, int], Comment] = {}
    said: set[tuple[str, str]] = set()
    unproven = 0
    for issue in issues:
        place = (issue.file, issue.line)
        hunk = change.hunk_at(*place)
        if issue.severity == "low" or place in chosen or hunk is None:
            continue
        if issue.evidence == "tool" and (issue.file, issue.rule) in said:
            continue
        if issue.evidence == "model":
            unproven += 1
            if unproven > config.max_unproven:
                continue
        if len(chosen) == config.max_comments:
            break
        said.add((issue.file, issue.rule))
        chosen[place] = _comment(issue, hunk)
    return tuple(chosen.values())


def _comment(issue: ReviewIssue, hunk: Hunk) -> Comment:
    """A comment, with the analyser's fix to be taken by a click where the hunk shows all lines that it replaces."""
    body, last = comment_text(issue), issue.line
    mended = issue.replacement
    if mended and hunk.shown.issuperset(range(issue.line, mended.last_line + 1)):
        last = mended.last_line
        body += "\n\n" + _fenced("".join(f"{line}\n" for line in mended.lines), "suggestion")
    start = issue.line if last > issue.line else None
    return Comment(path=issue.file, line=last, start_line=start, body=body, fingerprint=issue.fingerprint)


def comment_text(issue: ReviewIssue) -> str:
    """What a comment says."""
    parts = [f"**{issue.severity}**: {issue.message}"]
    if issue.suggestion:
        parts.append(issue.suggestion)
    if issue.details:
        block = _fenced(f"{issue.details}\n")
        parts.append(f"<details><summary>{issue.rule}</summary>\n\n{block}\n</details>")
    else:
        parts.append(f"`{issue.rule}`")
    return "\n\n".join(parts)


def _fenced(lines: str, kind: str = "") -> str:
    """Lines in a block that nothing in them ends."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`{3,}", lines))])
    return f"{fence}{kind}\n{lines}{fence}"
