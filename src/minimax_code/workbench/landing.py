"""Brings a change to a user's own files, or to a branch of theirs; nothing else here ever writes to them."""

from __future__ import annotations

import os
import posixpath
import re
import tempfile
from pathlib import Path

from minimax_code.errors import WorkspaceError
from minimax_code.workbench.git import ALONE, Git
from minimax_code.workbench.names import text_name
from minimax_code.workbench.workspace import Workspace, make_shadow

_LINK = re.compile(rb"^(?:new file mode|new mode|index [0-9a-f]+\.\.[0-9a-f]+) 120000$", re.MULTILINE)
_APPLY = ("apply", "--whitespace=nowarn")


async def apply_patch(patch: bytes, folder: Path) -> list[str]:
    """Applies a change to the files of a folder; where they have changed since, it is merged with that.

    Index, HEAD and branches stay as they are. It happens whole or not at all.

    Returns:
        The paths that it has changed.

    Raises:
        WorkspaceError: it is no patch, it conflicts, or it leads out of the folder; nothing was changed.
    """
    _check(patch)
    with tempfile.TemporaryDirectory(prefix="minimax-code-") as name:
        # By a repository of ours, as the user's may have line ends and filters change the bytes.
        await make_shadow(Path(name, "git"))
        git = Git({**ALONE, "GIT_DIR": f"{name}/git", "GIT_WORK_TREE": folder.absolute()}, cwd=folder)
        code, told = await git.run(*_APPLY, "--check", stdin=patch)
        if code != 0:
            patch = await _merged(patch, folder, text_name(told).strip())
        names = await git(*_APPLY, "--numstat", "-z", stdin=patch)
        await git(*_APPLY, stdin=patch)
    return [text_name(line.split(b"\t", 2)[2]) for line in names.split(b"\0") if line]


async def commit_patch(patch: bytes, folder: Path, branch: str, message: str) -> str:
    """Commits a change on top of HEAD as a new branch. The files, the index and what is checked out stay as they are.

    Returns:
        The commit.

    Raises:
        WorkspaceError: there is no repository or commit, or such a branch already, or the change doesn't fit to HEAD.
    """
    _check(patch)
    git = Git({}, cwd=folder)
    await git("check-ref-format", "--branch", branch)
    head = (await git("rev-parse", "--verify", "HEAD^{commit}")).decode().strip()
    prefix = (await git("rev-parse", "--show-prefix")).decode().strip()
    with tempfile.TemporaryDirectory(prefix="minimax-code-") as name:
        top = Path((await git("rev-parse", "--show-toplevel")).decode().rstrip("\n"))
        own = Git({"GIT_INDEX_FILE": f"{name}/index"}, cwd=top)
        await own("read-tree", head)
        code, told = await own.run(*_APPLY, "--cached", "--3way", f"--directory={prefix}", stdin=patch)
        if code != 0:
            raise WorkspaceError(f"the change doesn't fit to HEAD ({_refused(told)}); commit your own changes first")
        tree = (await own("write-tree")).decode().strip()
        commit = (await own("commit-tree", tree, "-p", head, stdin=message.encode())).decode().strip()
    await git("update-ref", f"refs/heads/{branch}", commit, "0" * len(commit))
    return commit


async def _merged(patch: bytes, folder: Path, told: str) -> bytes:
    """The change as it fits to the files of today, worked out in a copy with the user's own objects at hand."""
    code, objects = await Git({}, cwd=folder).run("rev-parse", "--path-format=absolute", "--git-path", "objects")
    theirs = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": os.fsdecode(objects).rstrip("\n")} if code == 0 else {}
    with tempfile.TemporaryDirectory(prefix="minimax-code-") as name:
        workspace = await Workspace.create(folder, Path(name, "copy"))
        git = Git({**workspace.git.env, **theirs}, cwd=workspace.path)
        code, more = await git.run(*_APPLY, "--3way", stdin=patch)
        if code != 0:
            raise WorkspaceError(f"the change doesn't fit to the files of today: {_refused(more) or told}")
        return await workspace.patch()


def _refused(told: bytes) -> str:
    """The first that git names as not fitting, else the last that it said."""
    lines = text_name(told).strip().splitlines()
    bad = [line for line in lines if line.startswith("error:") or line.endswith("with conflicts.")]
    return (bad or lines[-1:] or [""])[0].removeprefix("error: ")


def _check(patch: bytes) -> None:
    """Refuses links that lead elsewhere: whoever writes to them later would write there."""
    for section in re.split(rb"^(?=diff --git )", patch, flags=re.MULTILINE):
        if not _LINK.search(section):
            continue
        path = re.search(rb"^\+\+\+ (?:b/)?(.*)$", section, re.MULTILINE)
        target = re.search(rb"^\+(?!\+\+ )(.*)$", section, re.MULTILINE)
        if path is None or target is None:
            continue
        inside = posixpath.normpath(posixpath.join(posixpath.dirname(path[1]), target[1]))
        if posixpath.isabs(target[1]) or inside.split(b"/")[0] == b"..":
            raise WorkspaceError(f"{text_name(path[1])} would be a link to {text_name(target[1])}, out of the folder")
