"""The log of a job that a worker has."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict

import sqlalchemy as sa

from minimax_code.errors import LeaseError, StoreError
from minimax_code.events import Event, Recorded
from minimax_code.store.chain import START, read_rows, row_of
from minimax_code.store.database import Database
from minimax_code.store.lease import Lease
from minimax_code.store.tables import events, jobs


class StoredLog:
    """The events of one job, which the holder of its lease may add to; a `Log`.

    Raises:
        StoreError: they can't be read, or are not what was written.
    """

    def __init__(self, database: Database, lease: Lease, now: Callable[[], float]) -> None:
        self._database, self._lease, self._now = database, lease, now
        with database.read() as connection:
            rows = read_rows(connection, lease.job)
        self._recorded = [row.recorded for row in rows]
        self._hash = rows[-1].hash if rows else START
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
        # Who is cancelled here may have written it all the same: `recorded` says so.
        return await asyncio.to_thread(self._append, event, None)

    async def end(self, event: Event, outcome: str) -> Recorded:
        """Writes the last event, the job's outcome with it.

        Raises:
            StoreError: as `append`.
        """
        return await asyncio.to_thread(self._append, event, outcome)

    def _append(self, event: Event, outcome: str | None) -> Recorded:
        with self._turn:
            seq = len(self._recorded) + 1
            row = row_of(event, job=self._lease.job, seq=seq, at=self._now(), before=self._hash)
            recorded = row.recorded
            moved = (
                jobs.update()
                .where(jobs.c.id == row.job, jobs.c.token == self._lease.token, jobs.c.seq == seq - 1)
                .values(seq=seq, hash=row.hash, outcome=outcome)
            )
            with self._database.write() as connection:
                if connection.execute(moved).rowcount == 0:
                    raise self._refusal(connection)
                connection.execute(events.insert().values(**asdict(row)))
            self._hash = row.hash
            self._recorded.append(recorded)
            return recorded

    def _refusal(self, connection: sa.Connection) -> StoreError:
        owner, token = connection.execute(
            sa.select(jobs.c.owner, jobs.c.token).where(jobs.c.id == self._lease.job)
        ).one()
        if token != self._lease.token:
            return LeaseError(f"{self._lease.job} was taken by {owner}: nothing more of it can be written here")
        return StoreError(f"{self._lease.job} has events that this log didn't write: open it again")
