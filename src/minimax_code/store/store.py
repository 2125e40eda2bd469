"""Where jobs are kept: a file of SQLite, or a PostgreSQL database that many machines share."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from minimax_code.errors import InputError, LeaseError, StoreError
from minimax_code.events import Recorded
from minimax_code.store.chain import START, read_rows
from minimax_code.store.database import Database
from minimax_code.store.lease import Lease
from minimax_code.store.log import StoredLog
from minimax_code.store.packs import Packs
from minimax_code.store.row import JobRow, Wish
from minimax_code.store.tables import jobs, packs

TASKS = "tasks"
"""The queue of jobs that are tasks."""

_WANTED = (jobs.c.wish == "run") & jobs.c.outcome.is_(None)


def default_url() -> str:
    """SQLite's file in the platform's data folder."""
    import platformdirs

    return str(Path(platformdirs.user_data_path("minimax-code")) / "jobs.db")


class Store:
    """Jobs, their events, and who works on them.

    Args:
        url: `postgresql://USER@HOST/NAME`, or the path of a file for SQLite, made where it isn't there.
        now: seconds since 1970.

    Raises:
        InputError: the URL is neither.
        StoreError: it can't be reached, or a newer version of this package made it; so for all methods.
    """

    def __init__(self, url: str, *, now: Callable[[], float] = time.time) -> None:
        self.url = url
        self._database = Database(url)
        self._now = now

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return self._database.shown

    def create(self, spec: Mapping[str, Any], *, queue: str = TASKS, job: str | None = None) -> str:
        """Writes down what is to be done, for a worker to take; returns the job's id.

        Args:
            queue: which workers it is for.
            job: its id, where the caller has one. A job that has it already stays as it is.
        """
        if job is not None and self._has(job):
            return job
        job = job or f"job-{secrets.token_hex(5)}"
        row = {
            "id": job,
            "queue": queue,
            "created_at": self._now(),
            "spec": json.dumps(spec),
            "wish": "run",
            "token": 0,
        }
        row |= {"lease_until": 0.0, "seq": 0, "hash": START, "worked_s": 0.0, "told": 0}
        with self._database.write() as connection:
            connection.execute(jobs.insert().values(row))
        return job

    def job(self, job: str) -> JobRow:
        """What is known of a job.

        Raises:
            InputError: there is none of this id.
        """
        with self._database.read() as connection:
            row = connection.execute(jobs.select().where(jobs.c.id == job)).one_or_none()
        if row is None:
            raise InputError("job", f"there is no {job} in {self.shown}; `minimax-code jobs` lists those that are")
        return self._row(row)

    def jobs(self, queue: str = TASKS) -> list[JobRow]:
        """All jobs of a queue, the newest first."""
        query = jobs.select().where(jobs.c.queue == queue).order_by(jobs.c.created_at.desc())
        with self._database.read() as connection:
            return [self._row(row) for row in connection.execute(query)]

    def events(self, job: str, after: int = 0) -> list[Recorded]:
        """The events of a job after the one numbered `after`, without any lease.

        Raises:
            StoreError: one is not what was written.
        """
        with self._database.read() as connection:
            return [row.recorded for row in read_rows(connection, job, after)]

    def wish(self, job: str, wish: Wish) -> None:
        """Tells whoever works on a job what its user wants of it. What has ended stays as it is, and cancelled too."""
        kept = (jobs.c.id == job) & jobs.c.outcome.is_(None) & (jobs.c.wish != "cancel")
        with self._database.write() as connection:
            connection.execute(jobs.update().where(kept).values(wish=wish))

    def reopen(self, job: str, spec: Mapping[str, Any]) -> None:
        """Lets workers take a job again that had ended, with more to spend for example, as `spec` then says."""
        with self._database.write() as connection:
            this = jobs.update().where(jobs.c.id == job)
            connection.execute(this.values(outcome=None, wish="run", spec=json.dumps(spec)))

    def lease(self, job: str, owner: str, seconds: float) -> Lease:
        """Takes a job, for `seconds` or until they are renewed.

        An owner may take its own again at once: it knows that the worker that had it is dead.

        Raises:
            InputError: there is none of this id.
            LeaseError: another worker has it.
            StoreError: it has ended, or is paused.
        """
        this = sa.select(jobs.c.id).where(jobs.c.id == job, self._is_free | (jobs.c.owner == owner), _WANTED)
        if lease := self._take(this, owner, seconds):
            return lease
        row = self.job(job)
        if row.leased:
            raise LeaseError(f"{job} is held by {row.owner}, which is alive")
        raise StoreError(f"{job} is {row.state}, so nobody can work on it")

    def lease_next(self, owner: str, seconds: float, *, queue: str = TASKS) -> Lease | None:
        """Takes the oldest job of a queue that waits, or whose worker is gone; None where there is none."""
        mine = jobs.c.queue == queue
        oldest = sa.select(jobs.c.id).where(mine, self._is_free, _WANTED).order_by(jobs.c.created_at).limit(1)
        # PostgreSQL gives different jobs to workers that ask at once; SQLite lets one at a time ask.
        return self._take(oldest.with_for_update(skip_locked=True), owner, seconds)

    def renew(self, lease: Lease, worked_s: float = 0.0) -> Wish:
        """Makes a lease last again for its seconds from now, and returns what the user wants of the job.

        Args:
            worked_s: seconds that the worker has had it since the last renewal.

        Raises:
            LeaseError: another worker has taken it.
        """
        renewed = (
            jobs.update()
            .where(jobs.c.id == lease.job, jobs.c.token == lease.token)
            .values(lease_until=self._now() + lease.seconds, worked_s=jobs.c.worked_s + worked_s)
            .returning(jobs.c.wish)
        )
        with self._database.write() as connection:
            wish: Wish | None = connection.execute(renewed).scalar_one_or_none()
        if wish is None:
            raise LeaseError(f"{lease.job} was taken by another worker")
        return wish

    def release(self, lease: Lease, worked_s: float = 0.0) -> None:
        """Lets others take the job at once. It changes nothing if somebody has already taken it.

        Args:
            worked_s: as in `renew`.
        """
        mine = (jobs.c.id == lease.job) & (jobs.c.token == lease.token)
        released = jobs.update().where(mine).values(lease_until=0.0, worked_s=jobs.c.worked_s + worked_s)
        with self._database.write() as connection:
            connection.execute(released)

    def log(self, job: str, lease: Lease) -> StoredLog:
        """The log of a job that `lease` is of. One at a time: parallel agents of a job share it.

        Raises:
            LeaseError: the lease is of another job.
            StoreError: the events are not what was written.
        """
        if lease.job != job:
            raise LeaseError(f"the lease is of {lease.job}, not of {job}")
        return StoredLog(self._database, lease, self._now)

    def packs(self, lease: Lease) -> Packs | None:
        """The files of a job; None where they lie beside the store, as those of SQLite do.

        Raises:
            StoreError: they can't be read.
        """
        return None if self._database.is_sqlite else Packs(self._database, lease)

    def can_move(self, job: str) -> bool:
        """Whether a worker of another machine finds the files of a job here, or would, as it has none yet.

        Raises:
            StoreError: the store can't be read.
        """
        if self._database.is_sqlite:
            return False
        lacking = sa.select(packs.c.tree).where(packs.c.job == job, packs.c.data.is_(None)).limit(1)
        with self._database.read() as connection:
            return connection.execute(lacking).scalar() is None

    def told(self, job: str, seq: int) -> None:
        """Remembers that the job's callback has been told of all events up to this one."""
        with self._database.write() as connection:
            connection.execute(jobs.update().where(jobs.c.id == job, jobs.c.told < seq).values(told=seq))

    def close(self) -> None:
        """Closes all connections."""
        self._database.close()

    def _has(self, job: str) -> bool:
        with self._database.read() as connection:
            return connection.execute(sa.select(jobs.c.id).where(jobs.c.id == job)).scalar() is not None

    @property
    def _is_free(self) -> sa.ColumnElement[bool]:
        return jobs.c.lease_until <= self._now()

    def _take(self, which: sa.Select[tuple[str]], owner: str, seconds: float) -> Lease | None:
        taken = (
            jobs.update()
            .where(jobs.c.id == which.scalar_subquery())
            .values(owner=owner, token=jobs.c.token + 1, lease_until=self._now() + seconds)
            .returning(jobs.c.id, jobs.c.token)
        )
        with self._database.write() as connection:
            row = connection.execute(taken).one_or_none()
        return Lease(job=row.id, owner=owner, token=row.token, seconds=seconds) if row else None

    def _row(self, row: sa.Row[Any]) -> JobRow:
        fields = row._asdict()
        for inner in ("hash", "lease_until"):
            del fields[inner]
        fields["created_at"] = datetime.fromtimestamp(row.created_at, UTC)
        fields["spec"] = json.loads(row.spec)
        return JobRow(**fields, leased=row.lease_until > self._now())
