"""Which lines a diff has added or changed."""

from __future__ import annotations

import re

_HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


def changed_lines(diff: str) -> dict[str, frozenset[int]]:
    """Numbers of the new lines, by path; a file that only lost lines, or is gone, has none."""
    found: dict[str, set[int]] = {}
    path, old, new, number = "", 0, 0, 0
    for line in diff.splitlines():
        if old > 0 or new > 0:  # within a hunk, so that no line of a file looks like a header
            if line.startswith("+"):
                found.setdefault(path, set()).add(number)
            old -= line[:1] in ("-", " ", "")
            new -= line[:1] in ("+", " ", "")
            number += line[:1] in ("+", " ", "")
        elif line.startswith("+++ "):
            path = line[4:].split("\t")[0].removeprefix("b/")
        elif hunk := _HUNK.match(line):
            old, number, new = int(hunk[1] or 1), int(hunk[2]), int(hunk[3] or 1)
    return {path: frozenset(lines) for path, lines in found.items()}


def created_files(diff: str) -> tuple[str, ...]:
    """Paths of the files that a diff makes."""
    return tuple(re.findall(r"^--- /dev/null\n\+\+\+ b/([^\t\n]+)", diff, re.MULTILINE))
