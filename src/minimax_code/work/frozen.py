"""Files whose text is fixed, laid into a folder whose content nobody vouches for."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path


def lay(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Writes files where they aren't already just so; a link that stands in the way is taken away, never followed.

    Returns:
        Paths that were different.
    """
    return [path for path, text in files.items() if _lay(folder, path, text.encode())]


def read(folder: Path, path: str) -> str | None:
    """The text of a file; None where there is none, or it is a link or no UTF-8."""
    file = folder / path
    if not file.is_file() or any(folder.joinpath(*parts).is_symlink() for parts in _prefixes(path)):
        return None
    try:
        return file.read_bytes().decode()
    except (UnicodeDecodeError, OSError):
        return None


def _lay(folder: Path, path: str, content: bytes) -> bool:
    for parts in _prefixes(path)[:-1]:
        parent = folder.joinpath(*parts)
        if parent.is_symlink() or not parent.is_dir():
            parent.unlink(missing_ok=True)
            parent.mkdir()
    file = folder / path
    if file.is_symlink() or not file.is_file() or file.read_bytes() != content:
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        file.unlink(missing_ok=True)
        file.write_bytes(content)
        return True
    return False


def _prefixes(path: str) -> list[tuple[str, ...]]:
    parts = tuple(path.split("/"))
    return [parts[:i] for i in range(1, len(parts) + 1)]
