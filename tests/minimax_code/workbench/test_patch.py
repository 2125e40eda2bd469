"""Edits as models write them: the nearest reading that can only mean one place."""

from __future__ import annotations

import pytest

from minimax_code.errors import InputError
from minimax_code.workbench.patch import apply_edit

TEXT = """\
class Counter:
    def add(self, n):
        self.total += n
        return self.total

    def reset(self):
        self.total = 0
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("self.total += n", "self.total -= n"),  # exactly
        ("        self.total += n  \n", "        self.total -= n\n"),  # but for spaces at the end
        ("    self.total += n\n    return self.total", "    self.total -= n\n    return self.total"),  # less
        ("            self.total += n\n            return self.total\n",
         "            self.total -= n\n            return self.total\n"),  # too much
        ("\n\n        self.total += n \n\n", "\n\n        self.total -= n\n\n"),  # blank lines around the quote
        ("class Counter:\n    ...\n        self.total += n \n    # ...\n        self.total = 0",
         "class Counter:\n    ...\n        self.total -= n\n    # ...\n        self.total = 0"),  # what lies between
        ("        self.total += n\r\n", "        self.total -= n\r\n"),  # another system's line ends
    ],
)  # fmt: skip
def test_each_rung_finds_the_passage(old: str, new: str) -> None:
    assert apply_edit(TEXT, old, new) == TEXT.replace("+= n", "-= n")


def test_a_replacement_moves_with_its_passage() -> None:
    edited = apply_edit(
        TEXT, "def reset(self):\n    self.total = 0", "def reset(self):\n    if self.total:\n        self.total = 0"
    )
    assert edited.endswith("    def reset(self):\n        if self.total:\n            self.total = 0\n")


def test_lines_can_be_removed() -> None:
    assert apply_edit(TEXT, "        self.total += n \n", "") == TEXT.replace("        self.total += n\n", "")


def test_line_endings_stay() -> None:
    text = "a = 1\r\nb = 2\r\nc = 3\n"
    assert apply_edit(text, "a = 1 \nb = 2\n", "a = 1\nx = 0\nb = 2\n") == "a = 1\r\nx = 0\r\nb = 2\r\nc = 3\n"
    assert apply_edit("a\r\nb\r\n", "b", "b\nc") == "a\r\nb\r\nc\r\n"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("self.total", "x", "old: is there 3 times; quote more lines around it"),
        ("  \n", "x", "old: is empty; quote the lines that are to be replaced"),
        ("self.totals += n", "x", "old: isn't there; line 3 is the most like its first: '        self.total += n'"),
        ("zzz", "x", "old: isn't there; no line is like its first"),
        ("self.total += n", "# ... as before", "new: has '# ... as before' in the place of code; write all of it"),
        ("class Counter:\n...\n  self.total = 0 ", "class Counter:", "new: leaves lines out 0 times, and old 1 times"),
        ("...\n  def reset(self):", "x = 1\n...\n  def reset(self):",
         "new: has lines where old has only `...`; quote the lines beside them"),
    ],
)  # fmt: skip
def test_what_could_mean_anything_is_refused(old: str, new: str, told: str) -> None:
    with pytest.raises(InputError) as error:
        apply_edit(TEXT, old, new)
    assert str(error.value) == told


def test_two_places_of_one_rung_are_refused() -> None:
    with pytest.raises(InputError, match="fits 2 places"):
        apply_edit("if a:\n    x = 1\nif b:\n    x = 1\n", "  x = 1 ", "  x = 2")
