"""The tree of a folder that isn't ours: it is only read, and nothing that is written in it is run."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from minimax_code.errors import WorkspaceError
from minimax_code.workbench.git import Git

EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


async def lay_tree(shadow: Git, source: Path) -> str:
    """Writes the files of a folder as objects of `shadow`, and returns their tree.

    In a repository these are the files that it knows and those that it doesn't ignore, as they lie there; of a
    submodule, or another repository in it, its files alike.
    """
    index = Path(shadow.env["GIT_DIR"]) / f"source-{os.urandom(8).hex()}"
    git = shadow.having(GIT_WORK_TREE=source.absolute(), GIT_INDEX_FILE=index)
    try:
        files, nested = await _list(source, git)
        try:
            if files:
                await git("update-index", "--add", "-z", "--stdin", stdin=b"\0".join(files))
        except WorkspaceError as error:
            raise WorkspaceError(f"{source} can't be read whole: {error}") from error
        for name in nested:
            tree = await lay_tree(shadow, source / os.fsdecode(name))
            if tree != EMPTY_TREE:
                await git("read-tree", f"--prefix={os.fsdecode(name)}/", tree)
        return (await git("write-tree")).decode().strip()
    finally:
        index.unlink(missing_ok=True)


async def _list(source: Path, shadow: Git) -> tuple[list[bytes], list[bytes]]:
    """Files, and folders that are repositories of their own."""
    code, output = await Git({}, cwd=source).run(
        "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"
    )
    if code != 0 and b"dubious ownership" in output:
        raise WorkspaceError(f"{source} belongs to somebody else; if you trust it, add it to git's safe.directory")
    if code != 0 or not output:  # no repository, or one that doesn't care about this folder
        output = await shadow("ls-files", "-z", "--others", "--exclude-standard")
    root = os.fsencode(source.absolute())
    real = {b"": True}  # folders that are no links
    files, nested = [], []
    for name in output.split(b"\0"):
        folder, _, _ = name.rstrip(b"/").rpartition(b"/")
        kind = _kind(root, name) if name and _is_real(root, folder, real) else 0
        if stat.S_ISDIR(kind):
            nested.append(name.rstrip(b"/"))
        elif stat.S_ISREG(kind) or stat.S_ISLNK(kind):
            files.append(name)
    return files, nested


def _is_real(root: bytes, folder: bytes, known: dict[bytes, bool]) -> bool:
    """Whether no part of a folder's path is a link: what lies behind one belongs elsewhere."""
    if folder not in known:
        parent, _, _ = folder.rpartition(b"/")
        known[folder] = _is_real(root, parent, known) and stat.S_ISDIR(_kind(root, folder))
    return known[folder]


def _kind(root: bytes, name: bytes) -> int:
    try:
        return os.lstat(os.path.join(root, name.rstrip(b"/"))).st_mode
    except OSError:  # it is known, and was removed
        return 0
