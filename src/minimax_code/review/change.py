"""A change between two trees: files, hunks, and which lines a comment can stand on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from minimax_code.errors import WorkspaceError

if TYPE_CHECKING:
    from unidiff.patch import Hunk as PatchHunk

Side = Literal["LEFT", "RIGHT"]
Status = Literal["added", "removed", "renamed", "modified"]


@dataclass(frozen=True, kw_only=True)
class Hunk:
    """Lines of a diff that belong together.

    Attributes:
        text: with its header, as in the diff.
        start, length: of its lines in the new file.
        old_start: of what stood there before, in the old one.
        old_lines, new_lines: what stood there and what stands there now, with line ends.
        added: numbers of the lines that are new, in the new file.
        removed: of those that are gone, in the old file.
        shown: of lines of the new file that the hunk shows, changed or not.
        touched: where in the new file something changed: lines that are new, and where lines are only gone, the next.
    """

    text: str
    start: int
    length: int
    old_start: int
    old_lines: tuple[str, ...]
    new_lines: tuple[str, ...]
    added: frozenset[int]
    removed: frozenset[int]
    shown: frozenset[int]
    touched: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class FileChange:
    """A file that was changed.

    Attributes:
        path: its name now; of a removed file, its last one.
        old_path: its name before.
    """

    path: str
    old_path: str
    status: Status
    hunks: tuple[Hunk, ...]
    binary: bool = False

    @property
    def added(self) -> frozenset[int]:
        """Lines that are new."""
        return frozenset().union(*(hunk.added for hunk in self.hunks))

    @property
    def touched(self) -> frozenset[int]:
        """Lines at which something changed."""
        return frozenset().union(*(hunk.touched for hunk in self.hunks))

    def hunk_at(self, line: int, side: Side = "RIGHT") -> Hunk | None:
        """The hunk that shows a line; what stands on one that none shows, no comment can stand on."""
        return next((hunk for hunk in self.hunks if line in (hunk.shown if side == "RIGHT" else hunk.removed)), None)


@dataclass(frozen=True, kw_only=True)
class Change:
    """All files of a change, by their names now."""

    base: str
    head: str
    files: Mapping[str, FileChange]
    diff: str

    @property
    def present(self) -> tuple[str, ...]:
        """Text files that are there on the head."""
        return tuple(path for path, file in self.files.items() if file.status != "removed" and not file.binary)

    def old_path(self, path: str) -> str:
        """What a file was called on the base."""
        return self.files[path].old_path if path in self.files else path

    def hunk_at(self, path: str, line: int) -> Hunk | None:
        """The hunk that shows a line of the head."""
        return self.files[path].hunk_at(line) if path in self.files else None


def read_change(base: str, head: str, diff: str) -> Change:
    """The change that git's diff tells.

    Raises:
        WorkspaceError: it isn't a diff, or what reads diffs isn't installed.
    """
    try:
        from unidiff.errors import UnidiffParseError
        from unidiff.patch import PatchSet
    except ImportError as error:
        raise WorkspaceError("unidiff is not installed; pip install 'openm3[code]' brings it") from error
    try:
        patch = PatchSet(diff)
    except UnidiffParseError as error:
        raise WorkspaceError(f"the diff between {base} and {head} can't be read: {error}") from error
    files = {}
    for file in patch:
        status: Status = (
            "added" if file.is_added_file else "removed" if file.is_removed_file
            else "renamed" if file.is_rename else "modified"
        )  # fmt: skip
        hunks = tuple(map(_hunk, file))
        path = _plain(file.path)
        old_path = _plain(file.source_file).removeprefix("a/") if status == "renamed" else path
        files[path] = FileChange(
            path=path, old_path=old_path, status=status, hunks=hunks, binary=bool(file.is_binary_file)
        )
    return Change(base=base, head=head, files=files, diff=diff)


def _plain(name: str) -> str:
    """A name as it is; git writes odd ones in quotes, as C does."""
    if not (name.startswith('"') and name.endswith('"')):
        return name
    plain = name[1:-1].encode().decode("unicode_escape").encode("latin-1")
    return plain.decode(errors="surrogateescape")


def _hunk(hunk: PatchHunk) -> Hunk:
    added = {line.target_line_no for line in hunk if line.is_added and line.target_line_no}
    shown = {line.target_line_no for line in hunk if line.target_line_no}
    touched = set(added)
    gone = False  # lines are, and none has come in their place yet
    for line in hunk:
        if line.is_context and gone and line.target_line_no:
            touched.add(line.target_line_no)
        gone = line.is_removed or (gone and not line.target_line_no)
    if gone and shown:
        touched.add(max(shown))
    return Hunk(
        text=str(hunk),
        start=hunk.target_start,
        length=hunk.target_length,
        old_start=hunk.source_start,
        old_lines=tuple(line.value for line in hunk if line.is_context or line.is_removed),
        new_lines=tuple(line.value for line in hunk if line.is_context or line.is_added),
        added=frozenset(added),
        removed=frozenset(line.source_line_no for line in hunk if line.is_removed and line.source_line_no),
        shown=frozenset(shown),
        touched=frozenset(touched),
    )
