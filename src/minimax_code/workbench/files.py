"""Source files in memory. Their names come from users and models, and are hostile."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from minimax_code.errors import InputError, WorkspaceError

MAX_FILES = 200
MAX_BYTES = 4 << 20
"""Of all files together."""

_MAX_PATH = 200
_NOT_OURS = {"node_modules", ".venv", "venv", "__pycache__", ".git", "vendor", "build", "dist", ".tox"}

EXTENSIONS = {
    "python": "py", "javascript": "js", "typescript": "ts", "go": "go", "rust": "rs", "java": "java", "c": "c",
    "c++": "cpp", "cpp": "cpp", "c#": "cs", "ruby": "rb", "php": "php", "kotlin": "kt", "swift": "swift", "sql": "sql",
    "bash": "sh", "shell": "sh", "sh": "sh", "html": "html", "css": "css", "json": "json", "toml": "toml",
    "yaml": "yaml", "markdown": "md", "text": "txt", "dockerfile": "dockerfile",
}  # fmt: skip
"""Of files, by the names of languages as people and models write them."""

_ALSO = {"py": "python", "pyi": "python", "js": "javascript", "ts": "typescript", "yml": "yaml", "md": "markdown"}


@dataclass(frozen=True)
class CodeFile:
    """A file; its path is relative, with slashes, and stays within its folder."""

    path: str
    content: str

    @property
    def language(self) -> str:
        """By the path's ending; "text" where that is not known."""
        ending = PurePosixPath(self.path).suffix[1:].lower()
        names = [name for name, extension in EXTENSIONS.items() if extension == ending]
        return _ALSO.get(ending) or (names[0] if names else "text")


def path_problem(path: str) -> str | None:
    """What is wrong with a name of a file, or None."""
    parts = path.split("/")
    if not path or len(path.encode(errors="replace")) > _MAX_PATH:
        return f"must have 1 to {_MAX_PATH} bytes"
    if not path.isprintable() or "\\" in path or ":" in path:
        return "must be printable, without backslashes and colons"
    if any(part in ("", ".", "..") for part in parts):
        return "must be relative, with slashes, and stay within its folder"
    return None


def module_of(path: str) -> str:
    """The name that a file of Python is imported by from the folder, or from src/ in it."""
    return path.removeprefix("src/").removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def source_paths(folder: Path) -> list[str]:
    """Paths of the files of a folder, in order: without links, and what was installed or built."""
    found: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _NOT_OURS]
        files = (Path(parent, name) for name in names)
        found += [path.relative_to(folder).as_posix() for path in files if path.is_file() and not path.is_symlink()]
    return sorted(found)


def read_inside(folder: Path, path: str) -> bytes:
    """The contents of a file of a folder that somebody else filled.

    Raises:
        WorkspaceError: it is not there, no file, or a link leads to it.
    """
    place = folder / path
    if path_problem(path) or place.resolve() != folder.resolve() / path or not place.is_file():
        raise WorkspaceError(f"{path} is no file of the folder, or a link leads to it")
    return place.read_bytes()


def write_inside(folder: Path, path: str, content: bytes) -> None:
    """Writes a file into a folder that somebody else filled, and the folders on the way to it.

    Raises:
        WorkspaceError: the path leads out of the folder, or through a link.
    """
    place = folder / path
    if path_problem(path) or place.parent.resolve() != (folder.resolve() / path).parent or place.is_dir():
        raise WorkspaceError(f"{path} can't be written: it leads out of the folder, through a link, or is a folder")
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink():
        place.unlink()
    place.write_bytes(content)


def check_files(files: Sequence[CodeFile], field: str = "files") -> None:
    """Refuses what can't be laid into a folder.

    Raises:
        InputError: too many or too large, or a path that is wrong, there twice, or a folder of another.
    """
    if len(files) > MAX_FILES:
        raise InputError(field, f"are {len(files)}, and at most {MAX_FILES} are read")
    if sum(len(file.content.encode(errors="replace")) for file in files) > MAX_BYTES:
        raise InputError(field, f"are more than {MAX_BYTES >> 20} MiB in all")
    paths = {file.path.casefold() for file in files}
    if len(paths) < len(files):
        raise InputError(field, "have a path twice")
    for i, file in enumerate(files):
        if problem := path_problem(file.path):
            raise InputError(f"{field}[{i}].path", problem)
        if any(str(parent).casefold() in paths for parent in PurePosixPath(file.path).parents):
            raise InputError(f"{field}[{i}].path", "lies within another file")
