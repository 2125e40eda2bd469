"""The log of a job whose files go with it: they are in the store before an event names them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from minimax_code.events import Event, Log, Recorded, TaskEnded
from minimax_code.store import Packs
from minimax_code.work.result import TaskResult
from minimax_code.workbench.workspace import Workspace

MOST = 256 << 20
"""Bytes of a job's files that a store keeps. A job that has more can be gone on with on its own machine alone."""


def named_by(event: Event) -> str:
    """The tree that an event names; "" for most of them."""
    return getattr(event, "tree", "") or getattr(event, "base", "")


def last_named(recorded: Sequence[Recorded]) -> str:
    """The tree that was named last."""
    return next((tree for one in reversed(recorded) if (tree := named_by(one.event))), "")


class CarriedLog:
    """A `Log` over a job's.

    Args:
        place: of the job's files.
    """

    def __init__(self, log: Log, packs: Packs, place: Path) -> None:
        self._log, self._packs, self._place = log, packs, place
        # What a pack need not have: trees that are kept, and certainly here.
        self._known = [tree for tree in [last_named(log.recorded)] if tree in packs.sizes]
        self._turn = asyncio.Lock()  # a job's agents share its log

    @property
    def recorded(self) -> Sequence[Recorded]:
        """All so far, in order."""
        return self._log.recorded

    async def append(self, event: Event) -> Recorded:
        """Writes an event down, once the files that it names are kept.

        Raises:
            StoreError: one of them can't be written.
        """
        if tree := named_by(event):
            async with self._turn:
                await self._keep(tree)
        recorded = await self._log.append(event)
        if isinstance(event, TaskEnded) and TaskResult.model_validate(event.result, strict=False).is_final:
            await self._packs.clear()
        return recorded

    async def _keep(self, tree: str) -> None:
        if tree in self._packs.sizes or not self._packs.is_whole:
            return
        workspace = await Workspace.open(self._place)
        room = MOST - sum(self._packs.sizes.values())
        await self._packs.add(tree, await workspace.packed(tree, self._known, room))
        self._known = [*self._known[:1], tree]
