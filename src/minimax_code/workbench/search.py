"""Finds text in the files of a folder that .gitignore doesn't name: ripgrep, or Python where it isn't installed."""

from __future__ import annotations

import base64
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minimax_code.errors import InputError
from minimax_code.workbench.inside import script
from minimax_code.workbench.running import Limits
from minimax_code.workbench.sandbox import Sandbox

_LIMITS = Limits(seconds=30, memory_bytes=1 << 30, output_bytes=4 << 20)
_LONGEST = 400  # of a line, in characters


@dataclass(frozen=True, kw_only=True)
class Match:
    """A line that was found."""

    file: str
    line: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Matches:
    """What was found.

    Attributes:
        more: whether there is more than was asked for, or the search was ended.
        engine: "ripgrep" or "python".
    """

    matches: tuple[Match, ...]
    more: bool
    engine: str


def program() -> str | None:
    """Where ripgrep is."""
    return shutil.which("rg")


async def search(
    sandbox: Sandbox,
    folder: Path,
    pattern: str,
    *,
    paths: Sequence[str] = (),
    glob: str | None = None,
    ignore_case: bool = False,
    fixed: bool = False,
    limit: int = 100,
) -> Matches:
    """Finds lines.

    Args:
        pattern: a regular expression, in the syntax that ripgrep and Python share; with `fixed`, text.
        paths: where, below the folder; everywhere if empty.
        glob: of the names of files, as "*.py".
        limit: how many lines at most.

    Raises:
        InputError: the pattern is no regular expression.
        SandboxError: the sandbox can't be started.
    """
    rg = program()
    flags = [*(["--ignore-case"] if ignore_case else ()), *(["--fixed-strings"] if fixed else ())]
    if rg:
        command = [
            rg, "--json", "--hidden", "--no-require-git", "--no-config", "--sort=path", "--glob=!.git",
            "--max-filesize=4M", *flags, *([f"--type-add=wanted:{glob}", "--type=wanted"] if glob else ()),
            f"--regexp={pattern}", "--",
            *(_plain(paths) or ["."]),
        ]  # fmt: skip
    else:
        text = script("search.py")
        command = [sys.executable, "-I", "-c", text, *flags, pattern, glob or "*", *(_plain(paths) or ["."])]
    ran = await sandbox.run(command, folder=folder, writable=False, limits=_LIMITS)
    if ran.exit_code == 2 and not ran.output.startswith("{"):
        raise InputError("pattern", f"can't be read as a regular expression: {ran.output.strip().splitlines()[-1]}")
    found = list(_matches(ran.output, limit + 1))
    ended = ran.exit_code is None
    return Matches(matches=tuple(found[:limit]), more=ended or len(found) > limit, engine="ripgrep" if rg else "python")


def _plain(paths: Sequence[str]) -> list[str]:
    """Paths that no program takes for an option."""
    return [path if path.startswith("/") else f"./{path}" for path in paths]


def _matches(output: str, limit: int) -> Iterator[Match]:
    for line in output.splitlines():
        if not line.startswith('{"type":"match"'):
            continue
        try:
            data = json.loads(line)["data"]
        except ValueError:  # where the output was cut
            return
        text = _text(data["lines"]).rstrip("\n")
        yield Match(file=_text(data["path"]).removeprefix("./"), line=data["line_number"], text=text[:_LONGEST])
        limit -= 1
        if not limit:
            return


def _text(value: dict[str, Any]) -> str:
    """What isn't UTF-8 comes in base64."""
    return value["text"] if "text" in value else base64.b64decode(value["bytes"]).decode(errors="replace")
