"""The right to write the events of a job."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A worker's right to a job, until another one takes it after it has run out.

    Clocks decide when a job may be taken, never who may write: each lease of a job has a higher token than the
    one before, and events are refused from all but the newest. So a worker that was frozen can do no harm later.

    Attributes:
        owner: the worker, in words.
        token: the fencing token.
        seconds: how long it lasts from its beginning or its last renewal.
    """

    job: str
    owner: str
    token: int
    seconds: float
