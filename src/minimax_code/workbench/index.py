"""git's index of a workspace: its files as they were when they were last recorded, and what git may miss of them.

git takes a file for unchanged by its size, and by times in whole seconds of which whoever edits it can set one.
So a file that is edited in the second in which it was recorded may be missed, and is looked at here: nobody can set the
time of its last change.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from minimax_code.errors import WorkspaceError
from minimax_code.workbench.git import Git
from minimax_code.workbench.kinds import Kinds
from minimax_code.workbench.removal import remove

_SECOND_NS = 1_000_000_000
_CLOCK_NS = 20_000_000  # by which times of files may lag behind the clock


@dataclass(frozen=True)
class _Known:
    """What is known of an index, for as long as it is the same file.

    Attributes:
        young: files that were recorded in the second in which it was written; None: it may be any.
    """

    file: tuple[int, int]
    tree: str
    young: frozenset[bytes] | None


class Index:
    """Records the files of a folder as trees.

    Args:
        git: with the folder as its work tree, and an index of its own.
    """

    def __init__(self, git: Git) -> None:
        self._git = git
        self._path, self._folder = Path(git.env["GIT_INDEX_FILE"]), Path(git.env["GIT_WORK_TREE"])
        self._turn = asyncio.Lock()
        self._known: _Known | None = None

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """One at a time. A lock that is there then was left by a process that has ended."""
        async with self._turn:
            self._path.with_name("index.lock").unlink(missing_ok=True)
            yield

    async def write_tree(self) -> str:
        """Records the files as they are. Whoever calls it holds the index."""
        try:
            return await self._write_tree()
        except (WorkspaceError, OSError):  # somebody has made files unreadable
            await asyncio.to_thread(_make_readable, self._folder)
            return await self._write_tree()

    async def _write_tree(self) -> str:
        file = self._file()
        known = self._known if self._known and self._known.file == file else None
        young, written = known.young if known else None, file[1] if file else 0
        over = time.time_ns() > _end_of_second(written) + _CLOCK_NS  # then what is looked at now is looked at for good
        changed = await self._changed()
        recorded = await self._record(changed, await self._missed(young, written, changed))
        tree = known.tree if known and not recorded else (await self._git("write-tree")).decode().strip()
        if file := self._file():
            settled = over or file[1] >= _end_of_second(written)
            before = frozenset[bytes]() if settled else young
            self._known = _Known(file, tree, None if before is None else before | recorded)
        return tree

    def _file(self) -> tuple[int, int] | None:
        """Which file it is, and when it was written: git puts another in its place for each change."""
        with suppress(FileNotFoundError):
            found = self._path.stat()
            return found.st_ino, found.st_mtime_ns
        return None

    async def _changed(self) -> set[bytes]:
        """What is new, other or gone. A repository within the files would hide its own: its `.git` goes."""
        while True:
            listed = await self._git("ls-files", "-z", "--others", "--modified", "--deleted", "--exclude-standard")
            names = {name for name in listed.split(b"\0") if name}
            nested = [name for name in names if name.endswith(b"/")]
            if not nested:
                return names
            for name in nested:
                await asyncio.to_thread(remove, self._folder / os.fsdecode(name) / ".git")

    async def _missed(self, young: frozenset[bytes] | None, written: int, seen: set[bytes]) -> set[bytes]:
        """Further files that were changed after the index was written, within the same second."""
        root = os.fsencode(self._folder)

        def look() -> set[bytes]:
            times = _times(root) if young is None else _times_of(root, young)
            return {name for name, changed in times if written <= changed < _end_of_second(written)}

        found = (await asyncio.to_thread(look) if young is None else look()) - seen
        return found & set((await self._git("ls-files", "-z", "--cached")).split(b"\0")) if found else found

    async def _record(self, changed: set[bytes], missed: set[bytes]) -> frozenset[bytes]:
        kinds = Kinds(self._folder)
        gone = {name for name in changed if not kinds.is_file(name)}  # a folder, say, is in its place
        if forgotten := gone | missed:  # git looks at a file that it doesn't know
            await self._git("update-index", "--force-remove", "-z", "--stdin", stdin=b"\0".join(forgotten))
        if files := (changed | missed) - gone:
            await self._git("update-index", "--add", "--replace", "-z", "--stdin", stdin=b"\0".join(files))
        return frozenset(changed | missed)


def _end_of_second(when: int) -> int:
    return (when // _SECOND_NS + 1) * _SECOND_NS


def _times_of(root: bytes, names: frozenset[bytes]) -> Iterator[tuple[bytes, int]]:
    """When files were changed in any way; nothing of those that are gone."""
    for name in names:
        with suppress(OSError):
            yield name, os.lstat(os.path.join(root, name)).st_ctime_ns


def _times(folder: bytes, prefix: bytes = b"") -> Iterator[tuple[bytes, int]]:
    """The same of all files below a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _times(entry.path, prefix + entry.name + b"/")
            else:
                yield prefix + entry.name, entry.stat(follow_symlinks=False).st_ctime_ns


def _make_readable(folder: Path) -> None:
    os.chmod(folder, os.stat(folder).st_mode | stat.S_IRWXU)
    for name, folders, files in os.walk(folder):
        for one in (*folders, *files):
            path = os.path.join(name, one)
            if not os.path.islink(path):
                os.chmod(
                    path, os.lstat(path).st_mode | stat.S_IRUSR | stat.S_IWUSR | (stat.S_IXUSR if one in folders else 0)
                )
