"""Paths that models name, within the agent's folder and nowhere else."""

from __future__ import annotations

from pathlib import Path

from minimax_code.tools.tool import ToolError


def relative(root: Path, name: str) -> str:
    """The path of a file within a folder, links resolved: what permissions are matched with and what is opened.

    Raises:
        ToolError: it leads out of the folder, into git's own files, or isn't a path.
    """
    root = root.resolve()
    try:
        found = (root / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL, a name too long, a circle of links
        raise ToolError(f"path: {name!r} is no path") from error
    if not found.is_relative_to(root):
        raise ToolError(f"path: {name} is outside of your folder; use paths within it")
    path = found.relative_to(root)
    if any(part.lower() == ".git" for part in path.parts):
        raise ToolError(f"path: {name} is git's own; you can't read or change it")
    return path.as_posix()


def regular_file(root: Path, name: str) -> Path:
    """A file that can be read: no folder, no pipe, nothing out of the folder.

    Raises:
        ToolError: it is none.
    """
    path = root / relative(root, name)
    if not path.exists():
        raise ToolError(f"path: there is no {name}; `search` lists files")
    if not path.is_file():
        raise ToolError(f"path: {name} is not a file")
    return path


def text_of(root: Path, name: str) -> str:
    """The text of a file, its line ends as they are.

    Raises:
        ToolError: it is none, larger than 4 MiB, or not UTF-8.
    """
    path = regular_file(root, name)
    if path.stat().st_size > MAX_BYTES:
        raise ToolError(f"path: {name} has {path.stat().st_size:,} bytes; read it in parts with bash")
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ToolError(f"path: {name} is not UTF-8 text; look at it with bash") from error


MAX_BYTES = 4 << 20
