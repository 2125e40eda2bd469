"""A repository as the context of a question."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

MAX_FILE_BYTES = 1 << 20
_HEADING = re.compile(r"^### ([\w+@-][\w./+@-]*\.\w+)[ \t]*$\n?", re.MULTILINE)
BYTES_PER_TOKEN = 3  # of source code, with room: most tokenizers need fewer tokens


class ProjectFiles(str):
    """The text of a project's files, each under a line with its path.

    Attributes:
        files: the paths that are in it, in order.
        texts: what they have, by path.
        left_out: the paths that are not, with the reason.
        tokens: how many tokens the text has, estimated as bytes / 3.
    """

    files: tuple[str, ...]
    texts: dict[str, str]
    left_out: dict[str, str]
    tokens: int


def load_project_files(
    path: str | Path,
    *,
    max_tokens: int | None = None,
    include: Sequence[str] = ("*",),
    max_file_bytes: int = MAX_FILE_BYTES,
) -> ProjectFiles:
    """Reads the text files of a folder.

    Left out are what `.gitignore` files name, hidden files and folders, links, binary files, and files that are too
    large. Files come in the order of their paths, so that a project read twice begins alike and is found in a prefix
    cache. With `max_tokens`, files are taken in this order while they fit; one that doesn't is left out, and smaller
    ones behind it may still be taken.

    Args:
        path: a folder, or one file.
        max_tokens: of the whole text; None takes everything.
        include: patterns in `.gitignore`'s notation, of which a file must match one.
        max_file_bytes: larger files are left out.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: no file is left.
    """
    from pathspec import GitIgnoreSpec

    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such file or folder")
    wanted, texts, taken, left_out, num_bytes = (
        GitIgnoreSpec.from_lines(include),
        list[str](),
        dict[str, str](),
        dict[str, str](),
        0,
    )
    for file in [root] if root.is_file() else _walk(root, []):
        name = file.name if root.is_file() else file.relative_to(root).as_posix()
        if not wanted.match_file(name):
            continue
        text = _text(file, max_file_bytes)
        if isinstance(text, _Reason):
            left_out[name] = text
            continue
        shown = f"### {name}\n{text}\n\n"
        size = len(shown.encode())
        if max_tokens is not None and (num_bytes + size) > max_tokens * BYTES_PER_TOKEN:
            left_out[name] = f"beyond the budget of {max_tokens:,} tokens"
            continue
        num_bytes += size
        texts.append(shown)
        taken[name] = str(text)
    if not taken:
        raise ValueError(f"{root}: no text file is left; {len(left_out)} were left out")
    project = ProjectFiles("".join(texts))
    project.files, project.texts, project.left_out = tuple(taken), taken, left_out
    project.tokens = -(-num_bytes // BYTES_PER_TOKEN)
    return project


def texts_in(context: str) -> dict[str, str]:
    """The files of a context by path: those of a project, or of a text in which each stands under a line with its path
    ("### app/main.py"); none in any other text."""
    if isinstance(context, ProjectFiles) and hasattr(context, "texts"):
        return context.texts
    before, *parts = _HEADING.split(context)
    if before.strip():
        return {}
    return {path: text.strip("\n") + "\n" for path, text in zip(parts[::2], parts[1::2], strict=True)}


class _Reason(str):
    """Why a file is left out."""


def _text(file: Path, max_bytes: int) -> str | _Reason:
    if file.stat().st_size > max_bytes:
        return _Reason(f"larger than {max_bytes:,} bytes")
    try:
        data = file.read_bytes()
        return _Reason("binary") if b"\0" in data[:8192] else data.decode()
    except UnicodeDecodeError:
        return _Reason("not UTF-8")
    except OSError as error:
        return _Reason(error.strerror or "can't be read")


def _walk(folder: Path, rules: list[tuple[Path, object]]) -> Iterator[Path]:
    """The files below a folder that no `.gitignore` names, by path."""
    from pathspec import GitIgnoreSpec

    ignore = folder / ".gitignore"
    if ignore.is_file() and not ignore.is_symlink():
        rules = [*rules, (folder, GitIgnoreSpec.from_lines(ignore.read_text(errors="replace").splitlines()))]
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        path, is_folder = Path(entry.path), entry.is_dir()
        if any(_names(spec, path.relative_to(base).as_posix() + "/" * is_folder) for base, spec in rules):
            continue
        if is_folder:
            yield from _walk(path, rules)
        elif entry.is_file():
            yield path


def _names(spec: object, name: str) -> bool:
    return bool(spec.match_file(name))  # type: ignore[attr-defined]
