"""What a store knows of a job without reading its events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Wish = Literal["run", "pause", "cancel"]


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """A job as it was when it was read.

    Attributes:
        queue: which workers it is for.
        spec: what is to be done, as it was given.
        wish: what its user wants of it.
        outcome: how it ended, or None.
        owner: the worker that has it, or that had it last.
        token: of its newest lease; 0 before the first.
        leased: whether the newest lease still lasts.
        seq: of its newest event; 0 before the first.
        worked_s: how many seconds workers have had it.
        told: the newest event that its callback has been told of.
    """

    id: str
    queue: str
    created_at: datetime
    spec: Mapping[str, Any]
    wish: Wish
    outcome: str | None
    owner: str | None
    token: int
    leased: bool
    seq: int
    worked_s: float
    told: int

    @property
    def has_ended(self) -> bool:
        """Whether nobody will work on it any more."""
        return self.outcome is not None or self.state == "cancelled"

    @property
    def state(self) -> str:
        """The outcome; before there is one: waiting, running, pausing, paused, cancelling, cancelled or crashed.

        A job that no worker has is "crashed_resumable" if one had it and neither ended nor paused it.
        """
        if self.outcome is not None:
            return self.outcome
        if self.wish != "run":
            doing, done = {"pause": ("pausing", "paused"), "cancel": ("cancelling", "cancelled")}[self.wish]
            return doing if self.leased else done
        if self.leased:
            return "running"
        return "crashed_resumable" if self.owner else "waiting"
