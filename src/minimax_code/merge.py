"""Brings the work of several agents together: a queue, in which each is tried in memory before any file changes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from minimax_code.workbench.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What came of a merge.

    Attributes:
        tree: the files, with marks where both sides changed the same lines.
        conflicts: files with such marks; empty where there are none.
    """

    tree: str
    conflicts: tuple[str, ...] = ()


class MergeQueue:
    """A workspace into which others are merged, one at a time.

    Attributes:
        turn: held while files change; whoever reads them takes it.
    """

    def __init__(self, head: Workspace) -> None:
        self.head = head
        self.turn = asyncio.Lock()

    async def try_out(self, other: Workspace, tree: str) -> Merged:
        """What a merge would come to; no file changes. The caller has the turn.

        Args:
            other: a workspace that began with files that were the head's once.
            tree: its files that are to come in.
        """
        self.see(other)
        base = await self.head.commit(other.base, "base")
        ours = await self.head.commit(await self.head.snapshot(), "ours", base)
        theirs = await self.head.commit(tree, "theirs", base)
        args = ("merge-tree", "--write-tree", "--name-only", "--no-messages", "-z", ours, theirs)
        told = (await self.head.git(*args, codes=(0, 1))).decode(errors="backslashreplace").split("\0")
        return Merged(tree=told[0], conflicts=tuple(dict.fromkeys(name for name in told[1:] if name)))

    async def take(self, tree: str) -> None:
        """Makes a tree the head's files."""
        await self.head.restore(tree)

    def see(self, other: Workspace) -> None:
        """Lets the head's repository read the objects of another."""
        alternates = self.head.folder / "shadow.git" / "objects" / "info" / "alternates"
        known = alternates.read_text() if alternates.exists() else ""
        line = f"{other.folder / 'shadow.git' / 'objects'}\n"
        if line not in known:
            alternates.parent.mkdir(exist_ok=True)
            alternates.write_text(known + line)
