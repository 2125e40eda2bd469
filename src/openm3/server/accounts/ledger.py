"""The books: what every key has used, and what its running requests may still use.

A request reserves its prompt and the most that it may generate, and is settled with what it used. It is charged to the
UTC day on which it began. What it uses in between is granted ahead in windows: a token is handed on only after the
ledger has it, so whatever is killed, nobody gets a token that isn't charged. The processes that run requests renew a
lease. When one runs out, its requests are charged with what was granted: what was generated, and at most `WINDOW`
tokens of each that were not.

Whoever decides about a key locks its row first, so that is done one after the other, in any number of processes.
Nothing here is async: `account.py` does it beside the event loop.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from openm3.errors import DatabaseError, OpenM3Error
from openm3.server.accounts.allowance import Allowance, duration
from openm3.server.accounts.database import Database, keys, processes, requests, usage
from openm3.server.accounts.plans import Plan

WINDOW = 64
"""Tokens of an answer that are granted at once: the most that a request of a killed process pays and never got."""

LEASE_S = 60.0
"""How long after its last sign of life a process counts as dead."""

_MINUTE_S, _DAY_S = 60.0, 86_400.0


class LimitError(OpenM3Error):
    """A request that its plan doesn't allow now.

    Args:
        message: what was used, the limit, and when it resets.
        code: for programs.
        retry_s: seconds until it may be allowed; None: never, as it is.
    """

    def __init__(self, message: str, *, code: str, retry_s: float | None) -> None:
        super().__init__(message)
        self.code, self.retry_s = code, retry_s


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A request that was admitted.

    Attributes:
        answer_tokens: the most that it may generate; None: no limit.
        granted: what it may generate before it asks for more.
        allowance: what is left to its key beside it.
    """

    id: str
    key_id: str
    answer_tokens: int | None
    granted: int
    allowance: Allowance


@dataclass(frozen=True, kw_only=True)
class UsageRow:
    """What a key has used of a model in a day; what runs is not in it."""

    key_id: str
    day: str
    model: str
    requests: int
    prompt_tokens: int
    answer_tokens: int


class Ledger:
    """The books of a database, as one process writes them; `beat` comes first, who has no lease counts as dead.

    Args:
        database: up to date.
        clock: seconds since 1970; the clocks of all processes must agree to a few seconds.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock
        self._unsettled: deque[tuple[Entry, int, int]] = deque()
        self.process_id = uuid4().hex

    def beat(self) -> None:
        """Renews the lease, and settles what could not be settled before and what dead processes have left."""
        self._renew(self._clock() + LEASE_S)
        while self._unsettled:
            self._settle(*self._unsettled[0])
            self._unsettled.popleft()
        self.sweep()

    def resign(self) -> None:
        """Ends the lease: the process has nothing left to settle."""
        self._renew(0.0)

    def reserve(
        self, key_id: str, plan: Plan, model: str, prompt_tokens: int, answer_tokens: int | None, num_answers: int = 1
    ) -> Entry:
        """Admits a request.

        Args:
            key_id: whose it is.
            plan: what it allows.
            model: what is asked for.
            prompt_tokens: what will be read.
            answer_tokens: the most that will be generated, all answers together; None: what the plan and the day leave.
            num_answers: how many they are; each gets at least a token.

        Raises:
            LimitError: the plan doesn't allow it.
        """
        if not plan.allows(model):
            message = f"the plan {plan.name!r} does not include the model {model!r}"
            raise LimitError(message, code="model_not_allowed", retry_s=None)
        most = _most(plan, prompt_tokens, answer_tokens, num_answers)
        with self._locked(key_id) as connection:
            now = self._clock()
            self._sweep(connection, key_id, now)
            connection.execute(_FORGET, {"key_id": key_id, "minute_ago": now - _MINUTE_S})
            before = _allowance(connection, key_id, plan, now)
            most = _admit(before, plan, prompt_tokens, most, answer_tokens, num_answers)
            entry_id, reserved = uuid4().hex, prompt_tokens + (most or 0)
            granted = WINDOW if most is None else min(WINDOW, most)
            row = {
                "id": entry_id,
                "key_id": key_id,
                "process_id": self.process_id,
                "model": model,
                "day": _day(now),
                "started_at": now,
                "reserved": reserved,
                "prompt_tokens": prompt_tokens,
                "granted": granted,
            }
            connection.execute(requests.insert(), row)
        after = before.beside(reserved)
        return Entry(id=entry_id, key_id=key_id, answer_tokens=most, granted=granted, allowance=after)

    def extend(self, entry: Entry, granted: int) -> bool:
        """Grants a running request tokens up to this number; False where it was settled as that of a dead process."""
        assert entry.answer_tokens is None or granted <= entry.answer_tokens
        with self._database.write() as connection:
            return connection.execute(_EXTEND, {"entry_id": entry.id, "upto": granted}).rowcount == 1

    def settle(self, entry: Entry, prompt_tokens: int, answer_tokens: int) -> None:
        """Charges a request with what it used, once, and gives the rest back.

        Raises:
            DatabaseError: the database can't be reached; a later `beat` does it.
        """
        try:
            self._settle(entry, prompt_tokens, answer_tokens)
        except DatabaseError:
            self._unsettled.append((entry, prompt_tokens, answer_tokens))
            raise

    def _settle(self, entry: Entry, prompt_tokens: int, answer_tokens: int) -> None:
        with self._locked(entry.key_id) as connection:
            _charge(connection, entry.id, self._clock(), (prompt_tokens, answer_tokens))

    def allowance(self, key_id: str, plan: Plan) -> Allowance:
        """What a key has left, at a glance: nothing is decided by it."""
        with self._database.read() as connection:
            return _allowance(connection, key_id, plan, self._clock())

    def usage(
        self, key_id: str | None = None, *, since: str | None = None, until: str | None = None
    ) -> Sequence[UsageRow]:
        """What a key, or every key, has used, by day and model; the days are included."""
        query = usage.select().order_by(usage.c.day, usage.c.key_id, usage.c.model)
        if key_id is not None:
            query = query.where(usage.c.key_id == key_id)
        if since is not None:
            query = query.where(usage.c.day >= since)
        if until is not None:
            query = query.where(usage.c.day <= until)
        with self._database.read() as connection:
            return [UsageRow(**row._mapping) for row in connection.execute(query)]

    def sweep(self) -> None:
        """Charges the requests of dead processes, and forgets those processes."""
        with self._database.read() as connection:
            key_ids = connection.execute(_KEYS_OF_DEAD, {"now": self._clock()}).scalars().all()
        for key_id in key_ids:
            with self._locked(key_id) as connection:
                self._sweep(connection, key_id, self._clock())
        with self._database.write() as connection:
            connection.execute(_FORGET_DEAD, {"now": self._clock()})

    @contextmanager
    def _locked(self, key_id: str) -> Generator[sa.Connection, None, None]:
        with self._database.write() as connection:
            connection.execute(_LOCK, {"key_id": key_id}).one()
            yield connection

    def _sweep(self, connection: sa.Connection, key_id: str, now: float) -> None:
        for entry_id in connection.execute(_DEAD_OF_KEY, {"key_id": key_id, "now": now}).scalars().all():
            _charge(connection, entry_id, now)

    def _renew(self, lease_until: float) -> None:
        values = {"id": self.process_id, "lease_until": lease_until}
        with self._database.write() as connection:
            connection.execute(_renewal(connection.dialect.name), values)


def _most(plan: Plan, prompt_tokens: int, answer_tokens: int | None, num_answers: int) -> int | None:
    """The most tokens that the answers may come to by the plan's context; None: no limit.

    Raises:
        LimitError: the request is longer than the plan's context.
    """
    each = 1 if answer_tokens is None else answer_tokens // num_answers
    room = None if plan.max_context is None else plan.max_context - prompt_tokens
    if room is not None and room < each:
        raise LimitError(
            f"{prompt_tokens} tokens of prompts and {each} of an answer are more than the "
            f"{plan.max_context} of the plan {plan.name!r}",
            code="context_length_exceeded",
            retry_s=None,
        )
    if answer_tokens is not None:
        return answer_tokens
    limits = [limit for limit in (plan.answer_tokens, room) if limit is not None]
    return min(limits) * num_answers if limits else None


def _admit(
    before: Allowance,
    plan: Plan,
    prompt_tokens: int,
    most: int | None,
    answer_tokens: int | None,
    num_answers: int,
) -> int | None:
    """The most tokens that the answers may come to by what is left.

    Raises:
        LimitError: a limit is reached.
    """
    if plan.concurrent_requests is not None and before.running_requests >= plan.concurrent_requests:
        raise LimitError(
            f"{before.running_requests} requests of this key are running; the plan {plan.name!r} allows "
            f"{plan.concurrent_requests} at once",
            code="concurrency_limit_exceeded",
            retry_s=1.0,
        )
    if before.requests_left == 0:
        raise LimitError(
            f"{before.recent_requests} requests of this key began in the last minute; the plan {plan.name!r} allows "
            f"{plan.requests_per_minute}; the next one may begin in {duration(before.next_request_s)}",
            code="rate_limit_exceeded",
            retry_s=before.next_request_s,
        )
    left = before.tokens_left
    if left is None:
        return most
    least = prompt_tokens + (num_answers if answer_tokens is None else answer_tokens)
    if least > left:
        running = f" and {before.reserved_tokens} are reserved by running requests" if before.reserved_tokens else ""
        raise LimitError(
            f"the request may come to {least} tokens and {left} are left: {before.used_tokens} of the "
            f"{plan.tokens_per_day} a day of the plan {plan.name!r} are used{running}; "
            f"the day ends in {duration(before.next_day_s)}",
            code="tokens_per_day_exceeded",
            retry_s=before.next_day_s if least <= (plan.tokens_per_day or 0) else None,  # no day is long enough
        )
    return left - prompt_tokens if most is None else min(most, left - prompt_tokens)


def _allowance(connection: sa.Connection, key_id: str, plan: Plan, now: float) -> Allowance:
    values = {"key_id": key_id, "day": _day(now), "minute_ago": now - _MINUTE_S}
    used, reserved, num_running, num_recent, oldest = connection.execute(_LEFT, values).one()
    return Allowance(
        tokens_per_day=plan.tokens_per_day,
        requests_per_minute=plan.requests_per_minute,
        concurrent_requests=plan.concurrent_requests,
        used_tokens=int(used),
        reserved_tokens=int(reserved),
        recent_requests=num_recent,
        running_requests=num_running,
        next_request_s=(now if oldest is None else oldest) + _MINUTE_S - now,
        next_day_s=_DAY_S - now % _DAY_S,
    )


def _charge(connection: sa.Connection, entry_id: str, now: float, used: tuple[int, int] | None = None) -> None:
    """Settles a request and books what it used, or else what it was granted, unless that was done before."""
    row = connection.execute(_SETTLE, {"entry_id": entry_id, "now": now}).one_or_none()
    if row is None:
        return
    prompt_tokens, answer_tokens = used or (row.prompt_tokens, row.granted)
    if prompt_tokens + answer_tokens:
        place = {"key_id": row.key_id, "day": row.day, "model": row.model}
        amounts = {"requests": 1, "prompt_tokens": prompt_tokens, "answer_tokens": answer_tokens}
        connection.execute(_booking(connection.dialect.name), place | amounts)


def _day(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).date().isoformat()


# The statements of every request, made once: SQLAlchemy takes longer to make one than SQLite to carry it out.


def _insert(dialect: str, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """An insertion that can say what happens where the row is there already."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


@cache
def _booking(dialect: str) -> sa.Insert:
    """Adds to what was used in a day."""
    insert = _insert(dialect, usage)
    sums = {name: usage.c[name] + insert.excluded[name] for name in ("requests", "prompt_tokens", "answer_tokens")}
    return insert.on_conflict_do_update(index_elements=["key_id", "day", "model"], set_=sums)


@cache
def _renewal(dialect: str) -> sa.Insert:
    """Sets the lease of a process."""
    insert = _insert(dialect, processes)
    return insert.on_conflict_do_update(index_elements=["id"], set_={"lease_until": insert.excluded.lease_until})


_KEY: sa.BindParameter[str] = sa.bindparam("key_id")
_DAY: sa.BindParameter[str] = sa.bindparam("day")
_NOW: sa.BindParameter[float] = sa.bindparam("now")
_OF_KEY, _IS_RUNNING = requests.c.key_id == _KEY, requests.c.settled_at.is_(None)
_IS_RECENT = requests.c.started_at > sa.bindparam("minute_ago")
_IS_DEAD = requests.c.process_id.not_in(sa.select(processes.c.id).where(processes.c.lease_until > _NOW))

_LOCK = sa.select(keys.c.id).where(keys.c.id == _KEY).with_for_update()
_USED = (
    sa.select(sa.func.coalesce(sa.func.sum(usage.c.prompt_tokens + usage.c.answer_tokens), 0))
    .where(usage.c.key_id == _KEY, usage.c.day == _DAY)
    .scalar_subquery()
)
_LEFT = sa.select(
    _USED,
    sa.func.coalesce(sa.func.sum(requests.c.reserved).filter(_IS_RUNNING, requests.c.day == _DAY), 0),
    sa.func.count().filter(_IS_RUNNING),
    sa.func.count().filter(_IS_RECENT),
    sa.func.min(requests.c.started_at).filter(_IS_RECENT),
).where(_OF_KEY)
_FORGET = requests.delete().where(_OF_KEY, ~_IS_RUNNING, ~_IS_RECENT)
_DEAD_OF_KEY = sa.select(requests.c.id).where(_OF_KEY, _IS_RUNNING, _IS_DEAD)
_KEYS_OF_DEAD = sa.select(requests.c.key_id).distinct().where(_IS_RUNNING, _IS_DEAD)
_FORGET_DEAD = processes.delete().where(
    processes.c.lease_until <= _NOW, processes.c.id.not_in(sa.select(requests.c.process_id).where(_IS_RUNNING))
)
_OF_ENTRY = (requests.c.id == sa.bindparam("entry_id"), _IS_RUNNING)
_EXTEND = requests.update().where(*_OF_ENTRY).values(granted=sa.bindparam("upto"))
_SETTLE = requests.update().where(*_OF_ENTRY).values(settled_at=_NOW).returning(requests)
