"""The tree of a folder that isn't ours: it is only read, and nothing that is written in it is run."""

from __future__ import annotations

import os
from pathlib import Path

from minimax_code.errors import WorkspaceError
from minimax_code.workbench.git import Git
from minimax_code.workbench.kinds import Kinds

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
    kinds, files, nested = Kinds(source), [], []
    for name in (one.rstrip(b"/") for one in output.split(b"\0") if one):
        if kinds.is_folder(name):
            nested.append(name)
        elif kinds.is_file(name):
            files.append(name)
    return files, nested
