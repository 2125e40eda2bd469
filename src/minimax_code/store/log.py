"""The log of a job that a worker has."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import sqlalchemy as sa

from minimax_code.errors import LeaseError, StoreError
from minimax_code.events import Event, Recorded
from minimax_code.store.chain import START, read_rows, row_of
from minimax_code.store.database import Database
from minimax_code.store.lease import Lease
from minimax_code.store.row import Wish
from minimax_code.store.tables import events, jobs
from minimax_code.store.threads import in_thread

# Made once: to make it takes as long as to run it.
_MOVE = (
    jobs.update()
    .where(jobs.c.id == sa.bindparam("job"), jobs.c.token == sa.bindparam("held"), jobs.c.outcome.is_(None))
    .where(jobs.c.seq == sa.bindparam("before"))
    .values(seq=sa.bindparam("now"), hash=sa.bindparam("newest"), outcome=sa.bindparam("ends"))
    .returning(jobs.c.wish)
)
_INSERT = events.insert()


class StoredLog:
    """The events of one job, which the holder of its lease may add to; a `Log`.

    Attributes:
        wish: what the user wanted of the job when it was last written to.

    Raises:
        StoreError: they can't be read, or are not what was written.
    """

    def __init__(self, database: Database, lease: Lease, now: Callable[[], float]) -> None:
        self._database, self._lease, self._now = database, lease, now
        with database.read() as connection:
            rows = read_rows(connection, lease.job)
        self._recorded = [row.recorded for row in rows]
        self._hash = rows[-1].hash if rows else START
        self.wish: Wish = "run"
        self._turn = threading.Lock()

    @property
    def recorded(self) -> Sequence[Recorded]:
        """All so far, in order."""
        return self._recorded

    async def append(self, event: Event) -> Recorded:
        """Writes an event down; when it returns, neither a crash nor a power failure can lose it.

        Raises:
            StoreError: it can't be written, or (`LeaseError`) another worker has taken the job.
        """
        return await in_thread(self._append, event, None)

    async def end(self, event: Event, outcome: str) -> Recorded:
        """Writes the last event, the job's outcome with it.

        Raises:
            StoreError: as `append`.
        """
        return await in_thread(self._append, event, outcome)

    def _append(self, event: Event, outcome: str | None) -> Recorded:
        with self._turn:
            seq = len(self._recorded) + 1
            row = row_of(event, job=self._lease.job, seq=seq, at=self._now(), before=self._hash)
            recorded = row.recorded
            moved = {"job": row.job, "held": self._lease.token, "before": seq - 1}
            moved |= {"now": seq, "newest": row.hash, "ends": outcome}
            with self._database.write() as connection:
                wish: Wish | None = connection.execute(_MOVE, moved).scalar_one_or_none()
                if wish is None:
                    raise self._refusal(connection)
                connection.execute(_INSERT, vars(row))
            self.wish = wish
            self._hash = row.hash
            self._recorded.append(recorded)
            return recorded

    def _refusal(self, connection: sa.Connection) -> StoreError:
        job = connection.execute(jobs.select().where(jobs.c.id == self._lease.job)).one()
        if job.token != self._lease.token:
            return LeaseError(f"{job.id} was taken by {job.owner}: nothing more of it can be written here")
        if job.outcome is not None:
            return StoreError(f"{job.id} has ended ({job.outcome}): nothing can follow")
        return StoreError(f"{job.id} has events that this log didn't write: open it again")
