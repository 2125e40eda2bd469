"""What a review says is wrong, and by which evidence."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Literal

from minimax_code.record import Record
from minimax_code.workbench.findings import Severity

Evidence = Literal["test", "tool", "model"]
"""test: a test fails on the head and not on the base. tool: an analyser says so. model: a second look agreed."""

_ORDER = {"test": 0, "tool": 1, "model": 2}
_WEIGHT: dict[Severity, int] = {"high": 0, "medium": 1, "low": 2}


class Replacement(Record):
    """What stands in place of an issue's line, and those after it up to `last_line`, once it is mended."""

    last_line: int
    lines: tuple[str, ...]


class ReviewIssue(Record):
    """Something that the change makes worse.

    Attributes:
        line: in the head's file.
        suggestion: what to do, where that is known.
        rule: who says so and by which rule, as "ruff:F401", "test:regression", "model:correctness".
        details: what the evidence says, such as the end of a failing test's report.
        text: the line itself, which stays when its number changes.
        replacement: the analyser's fix, where it begins on this line.
    """

    severity: Severity
    file: str
    line: int
    message: str
    suggestion: str | None = None
    rule: str
    evidence: Evidence
    details: str = ""
    text: str = ""
    replacement: Replacement | None = None

    @property
    def fingerprint(self) -> str:
        """The same for the same finding on a later head, wherever its line has moved."""
        known = "\0".join([self.rule, self.file, re.sub(r"\d+", "0", self.message), " ".join(self.text.split())])
        return hashlib.sha256(known.encode(errors="replace")).hexdigest()[:32]


def counted(number: int, noun: str) -> str:
    """As "1 test", "2 tests"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def ranked(issues: Iterable[ReviewIssue]) -> tuple[ReviewIssue, ...]:
    """The best proven and heaviest first; of several with one fingerprint on one line, the first."""
    found: dict[tuple[str, int], ReviewIssue] = {}
    for issue in sorted(
        issues, key=lambda one: (_ORDER[one.evidence], _WEIGHT[one.severity], one.file, one.line, one.rule)
    ):
        found.setdefault((issue.fingerprint, issue.line), issue)
    return tuple(found.values())
