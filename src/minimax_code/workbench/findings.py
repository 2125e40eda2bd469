"""What analysers say about source files, and the score that follows from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from minimax_code.workbench.receipt import Receipt

Severity = Literal["high", "medium", "low"]

_POINTS: dict[Severity, int] = {"high": 10, "medium": 3, "low": 1}
_FEWEST_LINES = 20  # a short file is judged as one of this length, so that one remark doesn't ruin it


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What an analyser would write in place of a piece of a file. Rows and columns count from 1; the end's stay."""

    row: int
    column: int
    end_row: int
    end_column: int
    content: str


@dataclass(frozen=True, kw_only=True)
class Issue:
    """Something that is wrong with a line of a file.

    Attributes:
        severity: "high": it fails or can be attacked; "medium": likely a mistake; "low": style.
        suggestion: what to do, where the analyser knows.
        rule: the analyser's name and its rule's, as "ruff:F401".
        edit: mends it, where the analyser is sure of that and it is a single one.
    """

    severity: Severity
    file: str
    line: int
    message: str
    suggestion: str | None
    rule: str
    edit: Edit | None = None


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Of all analysers.

    Attributes:
        issues: by file and line.
        num_lines: lines that aren't blank of the files that an analyser has read.
        broken: files that don't parse.
    """

    issues: tuple[Issue, ...]
    receipts: tuple[Receipt, ...]
    num_lines: int
    broken: frozenset[str] = frozenset()

    @property
    def quality_score(self) -> float | None:
        """0 to 100: 100 less 100 points a line, a high issue being 10 points, a medium one 3, a low one 1.

        Fewer than 20 lines count as 20. It is 0 where a file doesn't parse, and None where nothing was read.
        """
        if not self.num_lines:
            return None
        if self.broken:
            return 0.0
        points = sum(_POINTS[issue.severity] for issue in self.issues)
        return round(max(0.0, 100 - 100 * points / max(self.num_lines, _FEWEST_LINES)), 1)


def in_order(issues: Iterable[Issue]) -> tuple[Issue, ...]:
    """By file and line."""
    return tuple(sorted(issues, key=lambda issue: (issue.file, issue.line, issue.rule, issue.message)))
