"""The log of a job that a worker has."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import sqlalchemy as sa

from minimax_code.errors import LeaseError, StoreError
from minimax_code.events import Event, Recorded
from minimax_code.store.chain import START, EventRow, read_rows, row_of
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


@dataclass(frozen=True, kw_only=True)
class _Entry:
    event: Event
    outcome: str | None
    written: Future[Recorded] = field(default_factory=Future)


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
        self._waiting: deque[_Entry] = deque()

    @property
    def recorded(self) -> Sequence[Recorded]:
        """All so far, in order."""
        return self._recorded

    async def append(self, event: Event) -> Recorded:
        """Writes an event down; when it returns, neither a crash nor a power failure can lose it.

        Raises:
            StoreError: it can't be written, or (`LeaseError`) another worker has taken the job.
        """
        return await self._written(_Entry(event=event, outcome=None))

    async def end(self, event: Event, outcome: str) -> Recorded:
        """Writes the last event, the job's outcome with it.

        Raises:
            StoreError: as `append`.
        """
        return await self._written(_Entry(event=event, outcome=outcome))

    async def _written(self, entry: _Entry) -> Recorded:
        self._waiting.append(entry)
        return await in_thread(self._append, entry)

    def _append(self, entry: _Entry) -> Recorded:
        """Whoever has the turn writes what others wait with as well, so that the disk is waited for once."""
        with self._turn:
            if not entry.written.done():
                self._settle(self._next())
        return entry.written.result()

    def _settle(self, entries: Sequence[_Entry]) -> None:
        try:
            recorded = self._write(entries)
        except Exception as error:
            if len(entries) == 1:
                return entries[0].written.set_exception(error)
            for entry in entries:  # each by itself, so that none fails for another
                self._settle([entry])
        else:
            for entry, each in zip(entries, recorded, strict=True):
                entry.written.set_result(each)

    def _next(self) -> list[_Entry]:
        """All that wait, in their order; nothing can follow the last event of a job."""
        entries = [self._waiting.popleft()]
        while self._waiting and entries[-1].outcome is None:
            entries.append(self._waiting.popleft())
        return entries

    def _write(self, entries: Sequence[_Entry]) -> list[Recorded]:
        rows: list[EventRow] = []
        seq, newest = len(self._recorded), self._hash
        for i, entry in enumerate(entries, start=1):
            rows.append(row_of(entry.event, job=self._lease.job, seq=seq + i, at=self._now(), before=newest))
            newest = rows[-1].hash
        recorded = [row.recorded for row in rows]
        moved = {"job": self._lease.job, "held": self._lease.token, "before": seq}
        moved |= {"now": seq + len(rows), "newest": newest, "ends": entries[-1].outcome}
        with self._database.write() as connection:
            wish: Wish | None = connection.execute(_MOVE, moved).scalar_one_or_none()
            if wish is None:
                raise self._refusal(connection)
            connection.execute(_INSERT, [vars(row) for row in rows])
        self.wish = wish
        self._hash = newest
        self._recorded += recorded
        return recorded

    def _refusal(self, connection: sa.Connection) -> StoreError:
        job = connection.execute(jobs.select().where(jobs.c.id == self._lease.job)).one()
        if job.token != self._lease.token:
            return LeaseError(f"{job.id} was taken by {job.owner}: nothing more of it can be written here")
        if job.outcome is not None:
            return StoreError(f"{job.id} has ended ({job.outcome}): nothing can follow")
        return StoreError(f"{job.id} has events that this log didn't write: open it again")
