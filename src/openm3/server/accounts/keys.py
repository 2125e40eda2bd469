"""Keys: made once and shown once; what is kept says whether a key is the one that was made.

A key is `om3_ID_SECRET`, its secret 32 random bytes. The database keeps the id, by which a key is found, and SHA-256 of
the whole. A slow hash such as bcrypt guards passwords, which people choose and others guess; nobody guesses 256
random bits, so it would only make every request wait. Digests are compared in constant time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from openm3.config.names import nearest
from openm3.errors import InputError
from openm3.server.accounts.database import Database, keys

PREFIX = "om3_"
"""What every key begins with."""

_ID_BYTES = 10
_SECRET_BYTES = 32
_FORM = re.compile(rf"(?P<id>{PREFIX}[a-z2-7]{{16}})_[A-Za-z0-9_-]{{43}}")
_FIND = keys.select().where(keys.c.id == sa.bindparam("key_id"))
_NO_DIGEST = bytes(32)  # of no key: an unknown id takes as long as a wrong secret


@dataclass(frozen=True, kw_only=True)
class Key:
    """What is known of a key; times are seconds since 1970.

    Attributes:
        id: what the key begins with, `om3_` and 16 characters.
        name: what its operator calls it.
        plan: the name of its plan.
        expires_at, revoked_at: since when it is not accepted; None: it still is.
    """

    id: str
    name: str
    plan: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None

    def state(self, now: float) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


class KeyStore:
    """The keys of a database.

    Args:
        database: up to date.
        clock: seconds since 1970.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock

    def create(self, *, name: str, plan: str, expires_at: float | None = None) -> tuple[Key, str]:
        """A new key: what is known of it, and the key itself, which nobody can show again.

        Raises:
            InputError: it would have expired already.
        """
        now = self._clock()
        if expires_at is not None and expires_at <= now:
            raise InputError("expires", "lies in the past")
        key = Key(id=_new_id(), name=name, plan=plan, created_at=now, expires_at=expires_at, revoked_at=None)
        text = _text(key.id)
        with self._database.write() as connection:
            connection.execute(keys.insert().values(digest=_digest(text), **vars(key)))
        return key, text

    def list(self) -> Sequence[Key]:
        """All keys, the oldest first."""
        with self._database.read() as connection:
            return [_key(row) for row in connection.execute(keys.select().order_by(keys.c.created_at, keys.c.id))]

    def any(self) -> bool:
        """Whether a key was ever made here."""
        with self._database.read() as connection:
            return connection.execute(sa.select(sa.exists(sa.select(keys.c.id)))).scalar_one()

    def revoke(self, key_id: str) -> Key:
        """Takes a key out of use at once and for good.

        Raises:
            InputError: there is none with that id.
        """
        return self._change(key_id, {"revoked_at": sa.func.coalesce(keys.c.revoked_at, self._clock())})

    def rotate(self, key_id: str, *, overlap_s: float = 0.0) -> tuple[Key, str]:
        """A new secret for a key, whose id, plan and usage stay; the old one is good for `overlap_s` more seconds.

        Raises:
            InputError: there is none with that id, or it was revoked.
        """
        text, until = _text(key_id), self._clock() + overlap_s
        if self._find(key_id).revoked_at is not None:
            raise InputError("key", f"{key_id} was revoked; create another")
        changes = {"digest": _digest(text), "old_digest": keys.c.digest, "old_until": until}
        return self._change(key_id, changes), text

    def check(self, text: str) -> Key | None:
        """The key that this is, if it is one and in use."""
        found = _FORM.fullmatch(text)
        if not found:
            return None
        now, digest = self._clock(), _digest(text)
        with self._database.read() as connection:
            row = connection.execute(_FIND, {"key_id": found["id"]}).one_or_none()
        is_it = hmac.compare_digest(digest, row.digest if row else _NO_DIGEST)
        was_it = hmac.compare_digest(digest, (row.old_digest if row else None) or _NO_DIGEST)
        if row is None or not (is_it or (was_it and now < row.old_until)):
            return None
        key = _key(row)
        return key if key.state(now) == "active" else None

    def _find(self, key_id: str) -> Key:
        with self._database.read() as connection:
            rows = {row.id: row for row in connection.execute(keys.select())}
        if key_id not in rows:
            raise InputError("key", f"there is no key {key_id!r}{nearest(key_id, list(rows))}")
        return _key(rows[key_id])

    def _change(self, key_id: str, changes: dict[str, object]) -> Key:
        self._find(key_id)
        with self._database.write() as connection:
            connection.execute(keys.update().where(keys.c.id == key_id).values(**changes))
        return self._find(key_id)


def _new_id() -> str:
    return PREFIX + base64.b32encode(secrets.token_bytes(_ID_BYTES)).decode().lower()


def _text(key_id: str) -> str:
    return f"{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _key(row: sa.Row[tuple[object, ...]]) -> Key:
    return Key(
        id=row.id,
        name=row.name,
        plan=row.plan,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
