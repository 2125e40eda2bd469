"""Commits of the user's repository as workspaces. It is only read, except for a branch that is asked for."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from minimax_code.errors import InputError, WorkspaceError
from minimax_code.review.result import Patch
from minimax_code.workbench.git import Git
from minimax_code.workbench.workspace import Workspace


class Repository:
    """A repository with commits.

    Args:
        folder: its folder, or one within it; or a bare repository.

    Raises:
        WorkspaceError: it isn't one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        if not self.folder.is_dir():
            raise WorkspaceError(f"{folder} is not a folder")
        self.git = Git({"HOME": os.environ.get("HOME", "/")}, cwd=self.folder)

    async def commit(self, name: str, field: str = "range") -> str:
        """The hash of a commit by any name that git knows.

        Raises:
            InputError: git knows none of that name.
            WorkspaceError: the folder is no repository.
        """
        code, output = await self.git.run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        if code != 0:
            code, output = await self.git.run("rev-parse", "--git-dir")
            if b"dubious ownership" in output:
                told = "belongs to somebody else; if you trust it, add it to git's safe.directory"
                raise WorkspaceError(f"{self.folder} {told}")
            if code != 0:
                raise WorkspaceError(f"{self.folder} is no git repository; name one with --repo")
            raise InputError(field, f"{name!r} is no commit of {self.folder}")
        return output.decode().strip()

    async def merge_base(self, base: str, head: str) -> str:
        """Where a branch left the other.

        Raises:
            InputError: they have no commit in common.
        """
        code, output = await self.git.run("merge-base", base, head)
        if code != 0:
            raise InputError("range", f"{base[:12]} and {head[:12]} have no commit in common")
        return output.decode().split()[0]

    @asynccontextmanager
    async def checkout(self, commit: str) -> AsyncIterator[Workspace]:
        """The files of a commit as a workspace, which ends with the context."""
        tree = (await self.git("rev-parse", "--verify", f"{commit}^{{tree}}")).decode().strip()
        objects = (await self.git("rev-parse", "--git-path", "objects")).decode().strip()
        with TemporaryDirectory(prefix="minimax-code-") as name:
            async with await Workspace.create(None, Path(name, "work")) as workspace:
                alternates = workspace.folder / "shadow.git" / "objects" / "info" / "alternates"
                alternates.parent.mkdir(exist_ok=True)
                alternates.write_text(f"{self.folder / objects}\n")
                await workspace.restore(tree)
                workspace.base = tree
                yield workspace

    async def make_branch(self, name: str, commit: str, patches: Sequence[Patch]) -> None:
        """Makes a branch with a commit for each patch; neither HEAD nor index nor files change.

        Raises:
            InputError: there is one of that name, or the name is none.
            WorkspaceError: a patch doesn't apply.
        """
        code, _ = await self.git.run("check-ref-format", "--branch", name)
        if code != 0:
            raise InputError("branch", f"{name!r} is no name for a branch")
        who = {"NAME": "minimax-code", "EMAIL": "minimax-code@localhost"}
        people = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}
        with TemporaryDirectory(prefix="minimax-code-") as folder:
            git = self.git.having(GIT_INDEX_FILE=Path(folder, "index"), **people)
            await git("read-tree", commit)
            for patch in patches:
                await git("apply", "--cached", "-", stdin=patch.patch.encode(errors="surrogateescape"))
                tree = (await git("write-tree")).decode().strip()
                commit = (await git("commit-tree", tree, "-p", commit, stdin=patch.title.encode())).decode().strip()
        code, _ = await self.git.run("update-ref", f"refs/heads/{name}", commit, "0" * 40)
        if code != 0:
            raise InputError("branch", f"{name} is there already; give another name")


def split_range(text: str) -> tuple[str, str]:
    """Base and head of BASE..HEAD or BASE...HEAD.

    Both mean what a pull request shows: what the head has changed since it left the base.

    Raises:
        InputError: it is neither.
    """
    base, dots, head = text.partition("..")
    if not dots or not base:
        raise InputError("range", f"must be BASE..HEAD, got {text!r}")
    return base, head.lstrip(".") or "HEAD"
