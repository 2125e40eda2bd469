"""Where the files of a job are worked on."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from minimax_code.errors import WorkspaceError
from minimax_code.events import Recorded, TaskBegan, ToolEnded
from minimax_code.workbench.workspace import Workspace


async def take_place(root: Path, owner: str, recorded: Sequence[Recorded]) -> Path:
    """A job's place for a worker: its owner's own folder, with the files as the last event has them.

    An owner that takes over from another doesn't work on the same files: the other one may only be frozen, and write
    when it wakes. What moves is the repository of the snapshots, which the other one can't find any more.

    Args:
        root: of this job.

    Raises:
        WorkspaceError: the job has begun, and its files are not on this machine.
    """
    place = root / owner
    if not any(isinstance(one.event, TaskBegan) for one in recorded):  # what is there was never finished
        shutil.rmtree(root, ignore_errors=True)
        return place
    if (place / "shadow.git").is_dir():
        return place
    before = next(root.glob("*/shadow.git"), None)
    if before is None:
        raise WorkspaceError(f"the files of this job are not in {root}; resume it on the machine that has them")
    (place / "files").mkdir(parents=True, exist_ok=True)
    before.rename(place / "shadow.git")
    workspace = await Workspace.open(place)
    await workspace.restore(_last_tree(recorded))
    shutil.rmtree(before.parent, ignore_errors=True)
    return place


def _last_tree(recorded: Sequence[Recorded]) -> str:
    for one in reversed(recorded):
        match one.event:
            case ToolEnded(tree=tree) | TaskBegan(base=tree) if tree:
                return tree
    raise AssertionError("a task has begun with a tree")
