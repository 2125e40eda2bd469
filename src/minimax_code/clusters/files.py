"""The files that agents hand on: a folder with the changes that others have made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minimax_code.errors import WorkspaceError
from minimax_code.workbench.git import Git
from minimax_code.workbench.workspace import Workspace


def diffs_of(results: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The changes in results, by the same names."""
    return {name: str(result.get("diff") or "") for name, result in results.items()}


async def with_diffs(folder: str | os.PathLike[str] | None, diffs: Mapping[str, str], place: Path) -> Path | None:
    """A folder as it is after some changes. Without any it is the folder itself.

    Args:
        diffs: as git writes them, in order, by the names of those who have made them.
        place: where the changed files are put; an empty folder, or one that isn't there yet.

    Raises:
        WorkspaceError: as `merged`.
    """
    source = None if folder is None else Path(folder)
    if not any(diffs.values()):
        return source
    return (await merged(source, diffs, place)).path


async def merged(source: Path | None, diffs: Mapping[str, str], place: Path) -> Workspace:
    """A copy of a folder in which the changes are made.

    Raises:
        WorkspaceError: the folder can't be copied, or a change doesn't go together with those before it.
    """
    workspace = await Workspace.create(source, place)
    git = Git(workspace.git.env, cwd=workspace.path)
    for name, diff in diffs.items():
        if not diff:
            continue
        try:
            await git("apply", "--3way", "--whitespace=nowarn", stdin=diff.encode())
        except WorkspaceError as error:
            raise WorkspaceError(
                f"what {name!r} has changed doesn't go together with what was before: {error}"
            ) from error
    return workspace
