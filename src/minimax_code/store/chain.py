"""Events as rows, each with a hash over all before it: what was lost or changed is noticed when a job is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pydantic
import sqlalchemy as sa

from minimax_code.errors import StoreError
from minimax_code.events import Event, Recorded, dump, load
from minimax_code.store.tables import events

START = ""  # the hash before the first event


@dataclass(frozen=True, kw_only=True)
class EventRow:
    """An event as it is kept. `data` is the JSON text that was hashed."""

    job: str
    seq: int
    at: float
    kind: str
    data: str
    hash: str

    @property
    def recorded(self) -> Recorded:
        """The event in its log.

        Raises:
            StoreError: it is of a version that this one can't read.
        """
        try:
            event = load(self.kind, json.loads(self.data))
        except pydantic.ValidationError as error:
            raise StoreError(
                f"event {self.seq} of {self.job} ({self.kind}) is of another MiniMax Code; use the one that wrote it"
            ) from error
        return Recorded(seq=self.seq, at=datetime.fromtimestamp(self.at, UTC), event=event)


def row_of(event: Event, *, job: str, seq: int, at: float, before: str) -> EventRow:
    """An event as the row after the one whose hash is `before`."""
    kind, data = dump(event)
    # Half a surrogate pair, as a model may write it, is in no encoding: it would be a row that nobody can read.
    text = json.dumps(data, ensure_ascii=False).encode(errors="replace").decode()
    return EventRow(job=job, seq=seq, at=at, kind=kind, data=text, hash=_hash(before, job, seq, at, kind, text))


def read_rows(connection: sa.Connection, job: str, after: int = 0) -> list[EventRow]:
    """The events of a job after the one numbered `after`.

    Raises:
        StoreError: one of them is not what was written.
    """
    query = sa.select(events).where(events.c.job == job, events.c.seq >= after).order_by(events.c.seq)
    rows = [EventRow(**row) for row in connection.execute(query).mappings()]
    if after:  # that one is read for its hash
        _check(rows[1:], job, after, rows[0].hash if rows else START)
        return rows[1:]
    _check(rows, job, 0, START)
    return rows


def _check(rows: Iterable[EventRow], job: str, seq: int, before: str) -> None:
    for row in rows:
        seq += 1
        if row.seq != seq or row.hash != _hash(before, job, seq, row.at, row.kind, row.data):
            raise StoreError(f"event {seq} of {job} is not what was written; restore the store from a backup")
        before = row.hash


def _hash(before: str, *parts: Any) -> str:
    return hashlib.sha256(json.dumps([before, *parts]).encode()).hexdigest()
