"""Which lines tests run, and which of the changed ones they don't."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class FileLines:
    """Of one file.

    Attributes:
        statements: lines that can run.
        missing: those of them that no test ran.
        tests: which tests ran a line, where the runner tells.
    """

    statements: frozenset[int]
    missing: frozenset[int]
    tests: Mapping[int, frozenset[str]] = field(default_factory=dict)


Coverage = Mapping[str, FileLines]
"""By path; a file that isn't there was not measured."""


@dataclass(frozen=True, kw_only=True)
class ChangedLines:
    """Changed lines as far as they can run.

    Attributes:
        covered, missing: by file, those that tests ran and those that no test ran.
        unmeasured: changed files of which nothing is known.
    """

    covered: Mapping[str, frozenset[int]]
    missing: Mapping[str, frozenset[int]]
    unmeasured: tuple[str, ...] = ()

    @property
    def percent(self) -> float | None:
        """How many of the changed lines that can run are run; None where none can."""
        covered, missing = (sum(map(len, lines.values())) for lines in (self.covered, self.missing))
        return round(100 * covered / (covered + missing), 1) if covered + missing else None


def of_changed(changed: Mapping[str, Set[int]], coverage: Coverage) -> ChangedLines:
    """Joins what tests ran to the lines that were changed."""
    known = {path: (frozenset(lines), coverage[path]) for path, lines in changed.items() if path in coverage}
    return ChangedLines(
        covered={path: lines & (file.statements - file.missing) for path, (lines, file) in known.items()},
        missing={path: lines & file.missing for path, (lines, file) in known.items()},
        unmeasured=tuple(sorted(set(changed) - set(known))),
    )


def percent(coverage: Coverage) -> float | None:
    """How many of all lines that can run are run; None where none can."""
    statements, missing = (
        sum(len(lines) for lines in found)
        for found in ([file.statements for file in coverage.values()], [file.missing for file in coverage.values()])
    )
    return round(100 * (statements - missing) / statements, 1) if statements else None
