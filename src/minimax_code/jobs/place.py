"""Where the files of a job are worked on."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from minimax_code.errors import WorkspaceError
from minimax_code.events import Recorded, TaskBegan, ToolEnded, WorkerStarted, WorkerStopped
from minimax_code.jobs.carried import last_named
from minimax_code.store import Packs
from minimax_code.workbench.workspace import UNFINISHED, Workspace


async def take_place(root: Path, owner: str, recorded: Sequence[Recorded], packs: Packs | None = None) -> Path:
    """A job's place for a worker: its owner's own folder, with the files as the last event has them.

    An owner that takes over from another doesn't work on the same files: the other one may only be frozen, and write
    when it wakes. What moves is the repository of the snapshots, which the other one can't find any more; what it
    lacks, as it is of another machine, is in the store.

    Args:
        root: of this job.
        packs: the job's files in a store that machines share.

    Raises:
        WorkspaceError: the job has begun, and its files can't be had on this machine.
    """
    place = root / owner
    if not (begun := [one.event for one in recorded if isinstance(one.event, TaskBegan)]):
        shutil.rmtree(root, ignore_errors=True)  # what is there was never finished
        return place
    others = (path for path in root.glob("*/shadow.git") if path.parent.suffix != UNFINISHED)
    if before := None if (place / "shadow.git").is_dir() else next(others, None):
        (place / "files").mkdir(parents=True, exist_ok=True)
        before.rename(place / "shadow.git")
    tree, last = _last_tree(recorded), _last_worker(recorded)
    workspace = await Workspace.open(place) if (place / "shadow.git").is_dir() else None
    if workspace is None or not all([await workspace.has(one) for one in {tree, last_named(recorded)}]):
        kept = await _kept(packs, tree, f"the files of this job are not in {root}, where {last} had them")
        if workspace is None:
            workspace = await Workspace.receive(place, begun[0].base, tree, kept)
        else:
            await workspace.unpack(kept)
    if last != owner:
        await workspace.restore(tree)
    if before:
        shutil.rmtree(before.parent, ignore_errors=True)
    return place


async def _kept(packs: Packs | None, tree: str, missing: str) -> list[bytes]:
    if packs is None:
        raise WorkspaceError(
            f"{missing}: resume it there, or copy that folder; jobs whose store is PostgreSQL can change machines"
        )
    if tree not in packs.sizes or not packs.is_whole:
        raise WorkspaceError(f"{missing}, and they were too large for the store: resume it there, or copy that folder")
    return await packs.read()


def _last_worker(recorded: Sequence[Recorded]) -> str:
    """Who has worked last; to have been started, and perhaps have found no files, is no work."""
    worker = last = ""
    for event in (one.event for one in recorded):
        if isinstance(event, WorkerStarted):
            worker = event.worker
        elif not isinstance(event, WorkerStopped):
            last = worker
    return last


def _last_tree(recorded: Sequence[Recorded]) -> str:
    for one in reversed(recorded):
        match one.event:
            case ToolEnded(tree=tree) | TaskBegan(base=tree) if tree:
                return tree
    raise AssertionError("a task has begun with a tree")
