"""A folder of the agent's own, whose states are git trees.

The objects lie in a repository beside the folder, which no sandbox shows; the folder itself has no `.git`. So whoever
works there sees no history, patches no hooks, and can't make git run anything.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from minimax_code.errors import WorkspaceError
from minimax_code.workbench.git import ALONE, Git
from minimax_code.workbench.index import Index
from minimax_code.workbench.names import byte_name, text_name
from minimax_code.workbench.removal import remove
from minimax_code.workbench.source import lay_tree

# Files are bytes: no line ending, keyword or filter that a repository's attributes ask for is applied.
_ATTRIBUTES = "* -text !eol -ident -filter !working-tree-encoding\n"
# What programs leave beside sources, and no change consists of.
_LITTER = "__pycache__/\n*.py[co]\n.pytest_cache/\n.mypy_cache/\n.ruff_cache/\n.hypothesis/\n.coverage\n"

UNFINISHED = ".part"
"""What the folder's name ends with while a workspace of another machine is received."""


class Workspace:
    """Files to work on, and their snapshots.

    Attributes:
        path: the folder with the files; the only one that a sandbox shows.
        base: the tree that everything began with.
    """

    def __init__(self, folder: Path, base: str) -> None:
        self.folder = folder
        self.path = folder / "files"
        self.base = base
        self.git = _shadow(folder)
        self._index = Index(self.git)

    @classmethod
    async def create(cls, source: Path | None, folder: Path) -> Workspace:
        """Copies a folder as it is, with what isn't committed, without what git ignores. It is only read.

        Args:
            source: a repository, a folder within one, or any folder; None for nothing.
            folder: where the workspace and its objects go; it must be empty, or not there yet.

        Raises:
            WorkspaceError: one of them can't be used.
        """
        if folder.exists() and any(folder.iterdir()):
            raise WorkspaceError(f"{folder} is not empty, so it can't become a workspace")
        if source is not None and not source.is_dir():
            raise WorkspaceError(f"{source} is not a folder that can be worked on")
        folder = folder.absolute()
        try:
            return await cls._create(source, folder)
        except BaseException:
            if folder.exists():
                await asyncio.shield(asyncio.to_thread(remove, folder))
            raise

    @classmethod
    async def _create(cls, source: Path | None, folder: Path) -> Workspace:
        git = await _new_shadow(folder)
        base = await lay_tree(git, source) if source else (await git("write-tree")).decode().strip()
        workspace = cls(folder, base)
        await workspace._set_base()
        await git("read-tree", "--reset", "-u", base)
        return workspace

    @classmethod
    async def receive(cls, folder: Path, base: str, tree: str, packs: Iterable[bytes]) -> Workspace:
        """A workspace of another machine as it was at a tree, from what `packed` gave there.

        Raises:
            WorkspaceError: one of the trees isn't whole in these packs.
        """
        part = folder.absolute().with_name(folder.name + UNFINISHED)
        shutil.rmtree(part, ignore_errors=True)
        await _new_shadow(part)
        workspace = cls(part, base)
        await workspace.unpack(packs)
        await workspace._set_base()
        await workspace.git("read-tree", "--reset", "-u", tree)
        part.rename(folder)  # so that there is no workspace, or all of it
        return await cls.open(folder)

    @classmethod
    async def open(cls, folder: Path) -> Workspace:
        """A workspace that was created before, by this process or one that has ended.

        Raises:
            WorkspaceError: there is none.
        """
        if not (folder / "shadow.git").is_dir():
            raise WorkspaceError(f"{folder} is not a workspace")
        base = await _shadow(folder.absolute())("rev-parse", "--verify", "refs/base^{tree}")
        return cls(folder.absolute(), base.decode().strip())

    async def snapshot(self) -> str:
        """The files as they are, as a tree."""
        async with self._index.held():
            return await self._index.write_tree()

    async def restore(self, tree: str) -> None:
        """Brings the files to a tree: what was added goes, except what git ignores there."""
        async with self._index.held():
            await self._index.write_tree()  # so that the index knows what has to go
            await self.git("read-tree", "--reset", "-u", tree)

    async def diff(self, old: str | None = None, new: str | None = None) -> str:
        """The change from one tree (the base) to another (the files as they are), as people read it."""
        return (await self._diff(old, new, "--patch", "--find-renames")).decode(errors="replace")

    async def patch(self, old: str | None = None, new: str | None = None) -> bytes:
        """The same to the byte, as `git apply` takes it, and in UTF-8: of files that have other bytes, as binary."""
        args = ("--patch", "--binary", "--full-index", "--no-renames")
        old, new = old or self.base, new or await self.snapshot()
        whole = await self._diff(old, new, *args)
        if _is_text(whole):
            return whole
        names = (await self._diff(old, new, "--name-only", "-z", "--no-renames")).split(b"\0")
        return b"".join([await self._patch_of(os.fsdecode(name), old, new, *args) for name in names if name])

    async def _patch_of(self, name: str, old: str, new: str, *args: str) -> bytes:
        patch = await self._diff(old, new, *args, paths=(name,))
        if _is_text(patch):
            return patch
        binary = self.folder / "shadow.git" / "info" / "binary"
        binary.write_text("* -diff\n")
        return await self._diff(old, new, *args, paths=(name,), config=f"core.attributesFile={binary}")

    async def changed_files(self, old: str | None = None, new: str | None = None) -> list[str]:
        """Paths of the files that a change adds, alters or removes; bytes that aren't UTF-8 are written as \\xNN."""
        names = (await self._diff(old, new, "--name-only", "-z", "--no-renames")).split(b"\0")
        return [text_name(name) for name in names if name]

    async def read(self, tree: str, path: str) -> bytes | None:
        """A file of a tree, by the name that `changed_files` has for it; None where there is none."""
        code, content = await self.git.run("cat-file", "blob", f"{tree}:{os.fsdecode(byte_name(path))}")
        return content if code == 0 else None

    async def export(self, tree: str, folder: Path) -> None:
        """Lays a tree into an empty folder, with nothing else there."""
        if folder.exists() and any(folder.iterdir()):
            raise WorkspaceError(f"{folder} is not empty, so no tree can be laid into it")
        folder.mkdir(parents=True, exist_ok=True)
        index = self.folder / "shadow.git" / f"export-{os.urandom(8).hex()}"
        try:
            elsewhere = self.git.having(GIT_WORK_TREE=folder.absolute(), GIT_INDEX_FILE=index)
            await elsewhere("read-tree", "--reset", "-u", tree)
        finally:
            index.unlink(missing_ok=True)

    async def packed(self, tree: str, known: Sequence[str], most: int) -> bytes | None:
        """The objects of a tree that some known ones don't have; None where they are more than `most` bytes."""
        revisions = "\n".join([tree, *(f"^{one}" for one in known), ""]).encode()
        size = await self.git("rev-list", "--objects", "--disk-usage", "--stdin", stdin=revisions)
        if int(size) > most:
            return None
        return await self.git("pack-objects", "--revs", "--stdout", "--quiet", stdin=revisions)

    async def unpack(self, packs: Iterable[bytes]) -> None:
        """Takes in what `packed` gave of another workspace."""
        for pack in packs:
            await self.git("unpack-objects", "-q", stdin=pack)

    async def has(self, tree: str) -> bool:
        """Whether a tree is there, with all of its files."""
        return (await self.git.run("rev-list", "--objects", "--quiet", tree))[0] == 0

    async def commit(self, tree: str, message: str, *parents: str) -> str:
        """A commit of a tree in the workspace's own repository, for what git only does with commits."""
        args = [word for parent in parents for word in ("-p", parent)]
        return (await self.git("commit-tree", tree, *args, stdin=message.encode())).decode().strip()

    async def close(self) -> None:
        """Removes everything, also what nobody may write to."""
        await asyncio.to_thread(remove, self.folder)

    async def __aenter__(self) -> Workspace:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        await self.close()

    async def _set_base(self) -> None:
        await self.git("update-ref", "refs/base", await self.commit(self.base, "base"))

    async def _diff(
        self, old: str | None, new: str | None, *args: str, paths: tuple[str, ...] = (), config: str = "core.bare=false"
    ) -> bytes:
        old, new = old or self.base, new or await self.snapshot()
        diff = ("diff-tree", "-r", "--no-color", "--no-ext-diff", "--no-textconv", *args, old, new, "--", *paths)
        return await self.git("-c", config, *diff)


def _shadow(folder: Path) -> Git:
    git = folder / "shadow.git"
    who = {"NAME": "minimax-code", "EMAIL": "minimax-code@localhost", "DATE": "@0 +0000"}
    people = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}
    return Git({**ALONE, "GIT_DIR": git, "GIT_WORK_TREE": folder / "files", "GIT_INDEX_FILE": git / "index", **people})


async def _new_shadow(folder: Path) -> Git:
    (folder / "files").mkdir(parents=True)
    await make_shadow(folder / "shadow.git")
    return _shadow(folder)


async def make_shadow(path: Path) -> None:
    """Makes a repository for files that lie elsewhere, in which no attribute changes their bytes.

    Raises:
        WorkspaceError: there is no git.
    """
    await Git(ALONE)("init", "--quiet", "--template=", "--bare", path)
    (path / "info").mkdir()
    (path / "info" / "attributes").write_text(_ATTRIBUTES)
    (path / "info" / "exclude").write_text(_LITTER)


def _is_text(patch: bytes) -> bool:
    try:
        patch.decode()
    except UnicodeDecodeError:
        return False
    return True
