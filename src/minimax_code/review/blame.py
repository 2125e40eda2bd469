"""Which lines of a change make a test fail: a hunk that is taken back, and with which it passes again, is the cause."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

from minimax_code.review.change import Change, Hunk
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.files import read_inside
from minimax_code.workbench.receipt import Case
from minimax_code.workbench.running import Limits
from minimax_code.workbench.testrun import TestRun, is_test

_MAX_TRIED = 12


@dataclass(frozen=True, kw_only=True)
class Regression:
    """Tests that fail on the head, and where they come from.

    Attributes:
        proven: whether they pass with the hunk of this line taken back.
    """

    file: str
    line: int
    cases: tuple[Case, ...]
    proven: bool


@dataclass(frozen=True, kw_only=True)
class _Suspect:
    file: str
    hunk: Hunk
    line: int
    score: float


async def find_causes(
    head: Workbench, change: Change, run: TestRun, failing: Sequence[Case], limits: Limits
) -> list[Regression]:
    """Takes back one hunk after another, the most suspicious first, and runs what fails without it.

    Raises:
        SandboxError: the sandbox can't be started.
    """
    suspects = sorted(_suspects(change, run, failing), key=lambda one: (-one.score, one.file, one.line))
    left = {case.name: case for case in failing}
    found: list[Regression] = []
    async with head.copy() as copy:
        for suspect in suspects[:_MAX_TRIED]:
            if not left:
                break
            path = copy.workspace.path / suspect.file
            text = read_inside(copy.workspace.path, suspect.file)
            path.write_bytes(without(text, suspect.hunk))
            names = list(left) if run.suite == "python" else []
            again = await copy.run_tests(names, suite=run.suite, limits=limits)
            path.write_bytes(text)
            good = {case.name for case in again.cases if case.outcome == "passed"}
            good |= {name for name in left if _collected(name, good)}
            if mended := tuple(case for name, case in left.items() if name in good):
                found.append(Regression(file=suspect.file, line=suspect.line, cases=mended, proven=True))
                left = {name: case for name, case in left.items() if name not in good}
    if left:
        place = suspects[0] if suspects else None
        file, line = (place.file, place.line) if place else _anywhere(change)
        found.append(Regression(file=file, line=line, cases=tuple(left.values()), proven=False))
    return found


def without(text: bytes, hunk: Hunk) -> bytes:
    """A file of the head with the lines of one hunk as they were on the base."""
    lines = text.split(b"\n")
    end = lines[-1] == b""
    lines = lines[:-1] if end else lines
    old = [line.rstrip("\n").encode(errors="surrogateescape") for line in hunk.old_lines]
    first = hunk.start - 1 if hunk.length else hunk.start
    lines[first : first + hunk.length] = old
    return b"\n".join(lines) + (b"\n" if end and lines else b"")


def _suspects(change: Change, run: TestRun, failing: Sequence[Case]) -> Iterator[_Suspect]:
    """Hunks of files that aren't tests, each with its most suspicious line, by Ochiai's measure."""
    bad = {case.name for case in failing}
    reports = "\n".join(case.message for case in failing)
    for path, file in change.files.items():
        if path not in change.present or is_test(path):
            continue
        measured = run.lines.get(path)
        named = {int(number) for number in re.findall(rf"(?:^|[\s\"/]){re.escape(path)}\D{{1,9}}(\d+)", reports)}
        for hunk in file.hunks:
            scores = {}
            for line in hunk.touched:
                tests = measured.tests.get(line, frozenset()) if measured else frozenset()
                hits = len(tests & bad)
                score = hits / sqrt(len(bad) * len(tests)) if hits else 0.0
                scores[line] = score + (0.5 if line in named else 0.0) + (1e-3 if not tests else 0.0)
            if scores:
                line = max(sorted(scores), key=lambda one: scores[one])
                yield _Suspect(file=path, hunk=hunk, line=line, score=scores[line])


def _collected(name: str, good: set[str]) -> bool:
    """Whether a file that couldn't be read now has tests that pass."""
    return "::" not in name and any(one.startswith(f"{name}::") for one in good)


def _anywhere(change: Change) -> tuple[str, int]:
    path = next(iter(change.present), next(iter(change.files)))
    return path, min(change.files[path].touched, default=1)
