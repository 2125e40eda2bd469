"""Replaces a passage of a text, as models quote it: nearly, but never where it could mean two places.

Rungs, from the strictest: exactly; but for spaces at line ends; but for one indentation of all lines; with lines of
`...` for what was left out. The first rung that finds the passage decides, and has to find it once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence

from minimax_code.errors import InputError

_ELISION = re.compile(r"\s*(#|//|--|/\*|<!--)?\s*(\.\.\.|…)\s*(\*/|-->)?\s*")
# A remark in the place of code: in a replacement it would delete what it stands for.
_LAZY = re.compile(r"\s*(#|//|--|/\*|<!--)\s*(\.\.\.|…).*")

Lines = Sequence[str]
Fit = Callable[[Lines, Lines], "tuple[str, str] | None"]
"""Whether lines of a text are those of a passage: then the indentation to take off the replacement, and to add."""


def apply_edit(text: str, old: str, new: str) -> str:
    """The text with `new` in the place of `old`. Lines elsewhere stay as they are, and new ones end as theirs do.

    Raises:
        InputError: the passage isn't there, or could be several, or the replacement leaves out what it stands for.
    """
    if not old.strip():
        raise InputError("old", "is empty; quote the lines that are to be replaced")
    for line in new.splitlines():
        if _LAZY.fullmatch(line) and line.strip() not in text and not any(map(_ELISION.fullmatch, old.splitlines())):
            raise InputError("new", f"has {line.strip()!r} in the place of code; write all of it")
    count = text.count(old)
    if count > 1:
        raise InputError("old", f"is there {count} times; quote more lines around it")
    if count == 1:
        return text.replace(old, _with_endings(new, text))
    lines, passage, replacement = (one.split("\n") for one in (text, old, new))
    for fit in (_but_for_line_ends, _but_for_indentation):
        if edit := _edit(lines, passage, replacement, fit):
            return _joined(lines, [edit])
    if edits := _elided(lines, passage, replacement):
        return _joined(lines, edits)
    raise InputError("old", f"isn't there; {_nearest(lines, passage)}")


Edit = tuple[int, int, list[str]]
"""First line, the line behind the last, and what comes in their place."""


def _edit(lines: Lines, passage: Lines, replacement: Lines, fit: Fit) -> Edit | None:
    head, tail = _blank(passage), _blank(passage[::-1])
    core = passage[head : len(passage) - tail]
    # Of the blank lines around a quote those that its replacement has too are no part of either.
    start = min(head, _blank(replacement))
    end = len(replacement) - min(tail, _blank(replacement[::-1]), len(replacement) - start)
    found = [
        (first, indents)
        for first in range(len(lines) - len(core) + 1)
        if core and (indents := fit(lines[first : first + len(core)], core)) is not None
    ]
    if len(found) > 1:
        raise InputError("old", f"fits {len(found)} places; quote more lines around it, exactly")
    if not found:
        return None
    first, (cut, added) = found[0]
    ending = "\r" if lines[first].endswith("\r") else ""
    moved = [
        f"{added}{line.rstrip(chr(13)).removeprefix(cut)}" if line.strip() else "" for line in replacement[start:end]
    ]
    return first, first + len(core), [line + ending for line in moved]


def _but_for_line_ends(there: Lines, passage: Lines) -> tuple[str, str] | None:
    same = all(one.rstrip() == other.rstrip() for one, other in zip(there, passage, strict=True))
    return ("", "") if same else None


def _but_for_indentation(there: Lines, passage: Lines) -> tuple[str, str] | None:
    theirs, ours = (_indent(one[0]) for one in (there, passage))
    cut, added = ("", theirs.removesuffix(ours)) if theirs.endswith(ours) else (ours.removesuffix(theirs), "")
    if not (theirs.endswith(ours) or ours.endswith(theirs)):
        cut, added = ours, theirs
    same = all(
        one.rstrip() == (f"{added}{other.rstrip().removeprefix(cut)}" if other.strip() else "")
        for one, other in zip(there, passage, strict=True)
    )
    return (cut, added) if same else None


def _elided(lines: Lines, passage: Lines, replacement: Lines) -> list[Edit] | None:
    """Each piece between elisions in its own place, in their order."""
    pieces, others = _pieces(passage), _pieces(replacement)
    if len(pieces) < 2:
        return None
    if len(pieces) != len(others):
        raise InputError("new", f"leaves lines out {len(others) - 1} times, and old {len(pieces) - 1} times")
    edits: list[Edit] = []
    for piece, other in zip(pieces, others, strict=True):
        if not any(map(str.strip, piece)):
            if any(map(str.strip, other)):
                raise InputError("new", "has lines where old has only `...`; quote the lines beside them")
            continue
        edit = _edit(lines, piece, other, _but_for_line_ends) or _edit(lines, piece, other, _but_for_indentation)
        if edit is None or (edits and edit[0] < edits[-1][1]):
            return None
        edits.append(edit)
    return edits


def _pieces(lines: Lines) -> list[list[str]]:
    pieces: list[list[str]] = [[]]
    for line in lines:
        if _ELISION.fullmatch(line):
            pieces.append([])
        else:
            pieces[-1].append(line)
    return pieces


def _joined(lines: Lines, edits: Sequence[Edit]) -> str:
    result = list(lines)
    for first, last, replacement in reversed(edits):
        result[first:last] = replacement
    return "\n".join(result)


def _with_endings(new: str, text: str) -> str:
    if "\r\n" in text and text.count("\n") == text.count("\r\n"):
        return new.replace("\r\n", "\n").replace("\n", "\r\n")
    return new


def _blank(lines: Lines) -> int:
    """How many blank lines are in front."""
    return next((i for i, line in enumerate(lines) if line.strip()), len(lines))


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _nearest(lines: Lines, passage: Lines) -> str:
    wanted = next(line.strip() for line in passage if line.strip())
    stripped = [line.strip() for line in lines]
    near = difflib.get_close_matches(wanted, stripped, n=1, cutoff=0.6)
    if not near:
        return "no line is like its first"
    number = stripped.index(near[0])
    return f"line {number + 1} is the most like its first: {lines[number].rstrip()!r}"
