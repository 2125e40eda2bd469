"""What was run, on which files, and how it ended. A claim without a receipt is not made."""

from __future__ import annotations

from typing import Literal

from minimax_code.record import Record


class Case(Record):
    """One test, by the name that its runner knows it by."""

    name: str
    outcome: Literal["passed", "failed", "error", "skipped"]
    message: str = ""


class Receipt(Record):
    """A command that was run.

    Attributes:
        command: of what couldn't be run, what would have been.
        tree: hash of the git tree that it ran on; None where files were given without a workspace.
        exit_code: None where it didn't end by itself: too long, too much output, or not there at all.
        sandbox: in which ("bubblewrap", "landlock", "none"), or "" where nothing of the files was run.
        checked: what that says something about, in words.
        cases: of a test run; empty for other commands.
    """

    command: tuple[str, ...]
    tree: str | None = None
    exit_code: int | None = None
    seconds: float = 0.0
    sandbox: str = ""
    checked: str = ""
    cases: tuple[Case, ...] = ()
