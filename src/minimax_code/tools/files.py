"""read, write and edit."""

from __future__ import annotations

import ast
from pathlib import Path

from pydantic import Field

from minimax_code.tools.paths import relative, text_of
from minimax_code.tools.tool import Arguments, Output, Place, ToolError, Typed
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.patch import apply_edit

_LINES, _LINE = 400, 2000  # of a reading, and characters of a line


class OfPath(Arguments):
    """A tool's arguments that name a file."""

    path: str = Field(description="of a file, relative to the folder")


class ReadArguments(OfPath):
    start: int = Field(default=1, ge=1, description="first line")
    lines: int = Field(default=_LINES, ge=1, le=2000, description="how many")


class Read(Typed[ReadArguments]):
    """Gives the lines of a file with their numbers."""

    name = "read"
    description = "Reads lines of a text file."
    takes = ReadArguments

    def _subject(self, arguments: ReadArguments, bench: Workbench) -> str:
        return relative(bench.workspace.path, arguments.path)

    async def _call(self, arguments: ReadArguments, place: Place) -> Output:
        lines = text_of(place.bench.workspace.path, arguments.path).splitlines()
        begin = arguments.start - 1
        shown = lines[begin : begin + arguments.lines]
        if not shown:
            return Output(f"{arguments.path} has {len(lines)} lines")
        text = "\n".join(f"{begin + i + 1:6}\t{line[:_LINE]}" for i, line in enumerate(shown))
        rest = len(lines) - begin - len(shown)
        return Output(f"{text}\n[{rest} more lines]" if rest else text)


class WriteArguments(OfPath):
    content: str = Field(description="all of the file")


class Write(Typed[WriteArguments]):
    """Writes a whole file."""

    name = "write"
    description = "Writes a file, new or in place of an old one. For a small change use edit."
    takes = WriteArguments
    reach = "files"

    def _subject(self, arguments: WriteArguments, bench: Workbench) -> str:
        return relative(bench.workspace.path, arguments.path)

    async def _call(self, arguments: WriteArguments, place: Place) -> Output:
        path = place.bench.workspace.path / relative(place.bench.workspace.path, arguments.path)
        old = path.read_text(errors="replace") if path.is_file() else ""
        _put(path, arguments.path, old, arguments.content)
        return Output(f"wrote {arguments.path}, {len(arguments.content.splitlines())} lines")


class EditArguments(OfPath):
    old: str = Field(description="the text to replace, which must be there exactly once; take whole lines")
    new: str = Field(description="what stands there then")


class Edit(Typed[EditArguments]):
    """Replaces one place of a file."""

    name = "edit"
    description = "Replaces a text in a file. Read the file first."
    takes = EditArguments
    reach = "files"

    def _subject(self, arguments: EditArguments, bench: Workbench) -> str:
        return relative(bench.workspace.path, arguments.path)

    async def _call(self, arguments: EditArguments, place: Place) -> Output:
        root = place.bench.workspace.path
        old = text_of(root, arguments.path)
        new = apply_edit(old, arguments.old, arguments.new)
        if new == old:
            raise ToolError("new: it is the same as old, so nothing changes")
        _put(root / relative(root, arguments.path), arguments.path, old, new)
        return Output(f"changed {arguments.path}")


def _put(path: Path, name: str, old: str, new: str) -> None:
    """Writes a file. What would break a file that could be parsed isn't written.

    Raises:
        ToolError: it doesn't parse, or a folder or a pipe has the name.
    """
    if path.suffix == ".py" and (broken := _broken(new)) and not _broken(old):
        raise ToolError(f"{name} was not written, it would not parse: {broken}")
    if path.exists() and not path.is_file():
        raise ToolError(f"path: {name} is not a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(new.encode())
    except (OSError, UnicodeEncodeError) as error:
        raise ToolError(f"{name} can't be written: {error}") from error


def _broken(text: str) -> str:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        return f"line {line}: {getattr(error, 'msg', error)}" if line else str(error)
    return ""
