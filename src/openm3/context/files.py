"""The text files behind `--context`: found, filtered, and put into one text for the model."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from openm3.errors import InputError

MAX_FILE_BYTES = 1 << 20
QUESTION = "{context}\nUse the files above to answer. {question}"  # a question behind rendered files

_BINARY_PROBE_BYTES = 8192
_MAX_REASONS_SHOWN = 5


@dataclass(frozen=True)
class ContextFile:
    """A text file: `path` as the model sees it, with forward slashes; `absolute` on this disk."""

    path: str
    absolute: Path
    text: str


@dataclass(frozen=True)
class SkippedFile:
    """A file or folder that was not taken, and why. What a .gitignore leaves out is not listed."""

    path: str
    reason: str


@dataclass(frozen=True)
class Collection:
    """The files of a context and what was left out, sorted by path: equal input gives equal text."""

    files: tuple[ContextFile, ...]
    skipped: tuple[SkippedFile, ...]

    def render(self) -> str:
        """Return all files as one text, each under a line `=== path ===`."""
        text = "".join(marker + file.text for marker, file in zip(self.markers(), self.files, strict=True))
        return text + ("" if text.endswith("\n") else "\n")

    def markers(self) -> list[str]:
        """What stands before each file in the rendered text: an empty line, and the line with its path."""
        ends = ["", *("\n" if file.text.endswith("\n") else "\n\n" for file in self.files[:-1])]
        return [f"{end}=== {file.path} ===\n" for end, file in zip(ends, self.files, strict=True)]


def collect(paths: Sequence[str | Path], *, max_file_bytes: int = MAX_FILE_BYTES) -> Collection:
    """Read the text files that the paths name, each once.

    A folder is walked without following symbolic links and without what .gitignore leaves out, in it and in
    the folders above it up to the repository's root. A glob is such a walk, filtered. A file that is named
    itself is taken even when ignored.

    Args:
        paths: files, folders, or globs like `src/**/*.py`.
        max_file_bytes: larger files are skipped.

    Raises:
        InputError: a path does not exist, a glob matches nothing, a .gitignore can't be read, or no text file
            is left.
    """
    files: list[ContextFile] = []
    skipped: list[SkippedFile] = []
    for shown, path, reason in find(paths):
        try:
            if reason:
                raise _UnfitError(reason)
            files.append(ContextFile(shown, Path(path), _read_text(path, max_file_bytes)))
        except _UnfitError as unfit:
            skipped.append(SkippedFile(shown, str(unfit)))
    if not files:
        raise InputError("--context", f"no text file in {', '.join(map(str, paths))}: {why_none(skipped)}")
    return Collection(tuple(files), tuple(skipped))


def find(paths: Sequence[str | Path]) -> Iterator[tuple[str, str, str | None]]:
    """What the paths of `collect` name, each file once: path as shown, path on this disk, and why not to take it.

    Raises:
        InputError: as `collect`.
    """
    # By absolute path: why it can't be taken, if that is known already.
    candidates: dict[str, str | None] = {}
    tops: list[str] = []
    for path in paths:
        name = os.path.expanduser(os.fspath(path))
        top, found = _expand(name)
        tops.append(top)
        for candidate, reason in found.items():
            # Named itself and met in a walk: the name counts.
            candidates[candidate] = reason and candidates.get(candidate, reason)
    root = _root_of(tops)
    seen: set[str] = set()
    for shown, candidate in sorted((_shown(candidate, root), candidate) for candidate in candidates):
        # A file may be named twice, once through a symbolic link.
        if reason := candidates[candidate]:
            yield shown, candidate, reason
        elif (real := os.path.realpath(candidate)) not in seen:
            seen.add(real)
            yield shown, candidate, None


class _UnfitError(Exception):
    """Why a file is not taken."""


# The .gitignore files in force, the outermost first: its folder, its rules for folders, its rules for files.
_Rules = tuple[tuple[str, GitIgnoreSpec, GitIgnoreSpec], ...]


def _expand(name: str) -> tuple[str, dict[str, str | None]]:
    """Return the file, folder or glob's base that is named, and the candidates that it stands for."""
    top = os.path.abspath(name)
    if os.path.isfile(name):
        return top, {top: None}
    if os.path.isdir(name):
        return top, dict(_walk(top))
    if not glob.has_magic(name):
        what = "is neither a file nor a folder" if os.path.exists(name) else "does not exist"
        raise InputError("--context", f"{name!r} {what}")
    base, parts = _split_glob(name)

    def matches(path: str, depth: int) -> bool:
        """Whether a path, or a folder above it, matches the first parts of the glob."""
        pattern = "/" + "/".join(parts[:depth])
        return GitIgnoreSpec.from_lines([pattern]).match_file(os.path.relpath(path, base))

    def may_hold_matches(folder: str) -> bool:
        depth = len(Path(os.path.relpath(folder, base)).parts)
        return "**" in parts[:depth] or matches(folder, depth)

    try:
        found = {path: why for path, why in _walk(base, may_hold_matches) if matches(path, len(parts))}
    except ValueError as error:
        raise InputError("--context", f"{name!r} does not exist and is no glob either") from error
    if not found:
        raise InputError("--context", f"{name!r} matches no file that .gitignore lets through")
    return base, found


def _split_glob(name: str) -> tuple[str, list[str]]:
    """Return the absolute folder before a glob's first wildcard, and the parts of the rest."""
    parts = name.split(os.sep)
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    base = os.sep.join(parts[:first]) + os.sep if first else os.curdir
    return os.path.abspath(base), parts[first:]


def _walk(top: str, may_enter: Callable[[str], bool] = lambda folder: True) -> Iterator[tuple[str, str | None]]:
    """Yield what is below a folder and not ignored: a file, or what can't be taken with the reason."""
    pending = [(top, _rules_above(top))]
    while pending:
        folder, rules = pending.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            yield folder, f"unreadable: {error.strerror}"
            continue
        rules += _rules_in(folder)
        for entry in entries:
            is_folder = entry.is_dir(follow_symlinks=False)
            if entry.name == ".git" or _is_ignored(entry.path, is_folder, rules):
                continue
            if is_folder:
                if may_enter(entry.path):
                    pending.append((entry.path, rules))
            elif entry.is_symlink():
                yield entry.path, "a symbolic link"
            else:
                yield entry.path, None if entry.is_file() else "not a regular file"


def _rules_above(folder: str) -> _Rules:
    """Rules of the folders above, up to the one that holds `.git`; none outside a repository."""
    chain = [folder, *map(str, Path(folder).parents)]
    root = next((i for i, each in enumerate(chain) if os.path.lexists(os.path.join(each, ".git"))), 0)
    rules = tuple(rule for each in reversed(chain[1 : root + 1]) for rule in _rules_in(each))
    # Who names an ignored folder wants what is in it.
    return () if any(_is_ignored(each, True, rules) for each in chain[:root]) else rules


def _rules_in(folder: str) -> _Rules:
    path = os.path.join(folder, ".gitignore")
    if os.path.islink(path) or not os.path.isfile(path):
        return ()
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            lines = [line.rstrip("\n") for line in file]
    except OSError as error:
        # Going on without it could show the model what nobody meant to show.
        raise InputError("--context", f"{path} can't be read: {error.strerror}") from error
    lines = [line if line.endswith("\\ ") else line.rstrip(" ") for line in lines]
    for_folders = _spec(line.removesuffix("/") for line in lines)
    for_files = _spec(line for line in lines if not line.endswith("/"))
    return ((folder, for_folders, for_files),)


# pathspec lets a pattern match whatever is below a folder that it names, but git asks about each name by
# itself: `!logs` takes back that folder, not the `*.log` files in it. So patterns and paths get an end that
# no name has.
_END = "\0"


def _spec(lines: Iterable[str]) -> GitIgnoreSpec:
    spec = GitIgnoreSpec([])
    for line in lines:
        pattern = (f"{line}/*" if line.endswith("**") else line) + _END
        with suppress(ValueError):  # git passes over what it can't understand in silence too
            spec += GitIgnoreSpec.from_lines([pattern])
    return spec


def _is_ignored(path: str, is_folder: bool, rules: _Rules) -> bool:
    """Let the last pattern of the innermost .gitignore that says something decide, as git does."""
    for folder, for_folders, for_files in reversed(rules):
        spec = for_folders if is_folder else for_files
        verdict = spec.check_file(os.path.relpath(path, folder) + _END).include
        if verdict is not None:
            return verdict
    return False


def _read_text(path: str, max_file_bytes: int) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(max_file_bytes + 1)
    except OSError as error:
        raise _UnfitError(f"unreadable: {error.strerror}") from error
    if not data:
        raise _UnfitError("empty")
    if len(data) > max_file_bytes:
        raise _UnfitError(f"larger than {max_file_bytes:,} bytes")
    if b"\0" in data[:_BINARY_PROBE_BYTES]:
        raise _UnfitError("binary")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _UnfitError("not UTF-8") from error


def _root_of(tops: Sequence[str]) -> str:
    """The working folder if everything is below it, else the deepest folder above all that was named."""
    here = os.getcwd()
    if all(os.path.commonpath((top, here)) == here for top in tops):
        return here
    return os.path.commonpath([os.path.dirname(top) for top in tops])


def _shown(path: str, root: str) -> str:
    relative = os.path.relpath(path, root).replace(os.sep, "/")
    # A line break would forge a marker, and a name that is not UTF-8 can't be encoded.
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in relative)


def why_none(skipped: Sequence[SkippedFile]) -> str:
    """The end of a sentence that says that no file was taken."""
    if not skipped:
        return "there is nothing that .gitignore lets through"
    reasons = [f"{file.path} is {file.reason}" for file in skipped[:_MAX_REASONS_SHOWN]]
    rest = len(skipped) - len(reasons)
    return "; ".join(reasons) + (f"; and {rest:,} more" if rest else "")
