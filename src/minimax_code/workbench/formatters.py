"""Formatters, where they are on the machine: what is new, or was formatted before, gets formatted."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from minimax_code.workbench.files import CodeFile
from minimax_code.workbench.receipt import Receipt
from minimax_code.workbench.sandbox import Limits, Ran, Sandbox

_LIMITS = Limits(seconds=30, output_bytes=16 << 20)
_START = ("/bin/sh", "-c", 'exec "$0" "$@"')  # ends with 127 where there is no such program, and writes nothing
_PRETTIER = (".prettierrc", ".prettierrc.json", ".prettierrc.yaml", ".prettierrc.yml", "prettier.config.js")


@dataclass(frozen=True, kw_only=True)
class Formatter:
    """A program that reads a file and writes it formatted.

    Attributes:
        command: is followed by the file's path, by which it finds the project's settings, if `takes_path` says so.
        settings: files of a project that uses it; empty for those that all projects of a language use.
    """

    name: str
    endings: tuple[str, ...]
    command: tuple[str, ...]
    takes_path: bool = True
    settings: tuple[str, ...] = ()


FORMATTERS = (
    Formatter(
        name="ruff format", endings=(".py", ".pyi"),
        command=(sys.executable, "-I", "-m", "ruff", "format", "--quiet", "--no-cache", "-", "--stdin-filename"),
    ),
    Formatter(name="gofmt", endings=(".go",), command=("gofmt",), takes_path=False),
    Formatter(name="rustfmt", endings=(".rs",), command=("rustfmt", "--edition=2021"), takes_path=False),
    Formatter(
        name="prettier", endings=(".js", ".jsx", ".mjs", ".cjs", ".ts", ".tsx", ".css"),
        command=("prettier", "--stdin-filepath"), settings=_PRETTIER,
    ),
)  # fmt: skip


async def format_file(
    sandbox: Sandbox, folder: Path, file: CodeFile, before: str | None
) -> tuple[CodeFile, Receipt | None]:
    """A file as its formatter has it, and what was done; it stays as it is where there is no formatter for it.

    Args:
        folder: the project's.
        before: the file's text before it was changed; None: it is new. What nobody had formatted stays unformatted, so
            that a change is no larger than it has to be.

    Raises:
        SandboxError: the sandbox can't be started.
    """
    ending = PurePosixPath(file.path).suffix
    one = next((one for one in FORMATTERS if ending in one.endings), None)
    if one is None or (one.settings and not any((folder / name).is_file() for name in one.settings)):
        return file, None
    ran = await _run(one, sandbox, folder, file.path, file.content)
    text, told = _text(ran), "that it is formatted"
    if text is None:
        told = f"nothing: {one.name} can't be run, or can't read it"
    elif before is not None and text != file.content:
        was = await _run(one, sandbox, folder, file.path, before)
        if _text(was) != before:
            text, told = None, "nothing: it was not formatted before"
    receipt = Receipt(
        command=(one.name, file.path), exit_code=ran.exit_code, seconds=ran.seconds, sandbox=ran.sandbox, checked=told
    )
    return (file if text is None else CodeFile(file.path, text)), receipt


async def _run(one: Formatter, sandbox: Sandbox, folder: Path, path: str, text: str) -> Ran:
    command = (*_START, *one.command, *((path,) if one.takes_path else ()))
    stdin = text.encode(errors="replace")
    return await sandbox.run(command, folder=folder, writable=False, limits=_LIMITS, stdin=stdin, stderr=False)


def _text(ran: Ran) -> str | None:
    return ran.output if ran.exit_code == 0 else None
