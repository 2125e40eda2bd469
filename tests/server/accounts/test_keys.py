from __future__ import annotations

import hashlib
import statistics
import time
from typing import Any

import pytest
import sqlalchemy as sa

from openm3.errors import InputError
from openm3.server.accounts.database import Database
from openm3.server.accounts.keys import KeyStore


def test_a_key_is_shown_once_and_found_again(database: Database, clock: Any) -> None:
    store = KeyStore(database, clock)
    assert not store.any()
    made, text = store.create(name="alice", plan="plus")
    assert store.any()
    assert store.check(text) == made
    assert store.list() == [made]
    assert text.startswith(f"{made.id}_")
    with database.read() as connection:
        rows = connection.execute(sa.text("SELECT * FROM keys")).all()
    secret = text.removeprefix(f"{made.id}_")
    assert secret not in str(rows), "the database can't give it away"
    assert hashlib.sha256(text.encode()).digest() in [bytes(cell) for cell in rows[0] if isinstance(cell, bytes)]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-1],
        lambda text: text + "x",
        lambda text: text[:-1] + ("a" if text[-1] != "a" else "b"),
        lambda text: text.upper(),
        lambda text: "om3_",
        lambda text: "",
        lambda text: text.replace("om3_", "om3_\x00"),
        lambda text: "om3_' OR 1=1 --",
        lambda text: "om3_\udcff" + text,
    ],
)
def test_what_is_not_the_key_is_none(database: Database, spoil: Any) -> None:
    store = KeyStore(database)
    _, text = store.create(name="", plan="plus")
    assert store.check(spoil(text)) is None


def test_revoked_and_expired_keys_are_none(database: Database, clock: Any) -> None:
    store = KeyStore(database, clock)
    revoked, revoked_text = store.create(name="a", plan="plus")
    expiring, expiring_text = store.create(name="b", plan="plus", expires_at=clock.now + 60)
    store.revoke(revoked.id)
    clock.now += 1
    assert store.revoke(revoked.id).revoked_at == clock.now - 1, "the first time counts"
    assert store.check(revoked_text) is None
    assert store.check(expiring_text) == expiring
    clock.now += 59
    assert store.check(expiring_text) is None
    assert {key.id: key.state(clock.now) for key in store.list()} == {revoked.id: "revoked", expiring.id: "expired"}
    assert store.any(), "a server doesn't open again"


def test_a_rotated_key_keeps_its_id_and_the_old_one_ends(database: Database, clock: Any) -> None:
    store = KeyStore(database, clock)
    made, first = store.create(name="a", plan="max")
    _, second = store.rotate(made.id, overlap_s=60)
    assert store.check(first) == store.check(second) == made
    clock.now += 60
    assert store.check(first) is None
    _, third = store.rotate(made.id)
    assert (store.check(second), store.check(third)) == (None, made)
    store.revoke(made.id)
    with pytest.raises(InputError, match="was revoked; create another"):
        store.rotate(made.id)


def test_an_unknown_id_is_told_with_the_nearest(database: Database) -> None:
    store = KeyStore(database)
    made, _ = store.create(name="a", plan="max")
    with pytest.raises(InputError, match=f"did you mean '{made.id}'"):
        store.revoke(made.id[:-1])
    with pytest.raises(InputError, match="expires: lies in the past"):
        store.create(name="a", plan="max", expires_at=1.0)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_no_time_tells_how_much_of_a_key_is_right(database: Database) -> None:
    """Wrong in the first or the last character, or of no key at all: by turns, the medians are one another's noise."""
    store = KeyStore(database)
    made, text = store.create(name="", plan="plus")
    at = len(made.id) + 1
    cases = {
        "first": text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :],
        "last": text[:-1] + ("A" if text[-1] != "A" else "B"),
        "unknown": "om3_aaaaaaaaaaaaaaaa" + text[at - 1 :],
    }
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(300):
        for name, wrong in cases.items():
            begin = time.thread_time()
            assert store.check(wrong) is None
            taken[name].append(time.thread_time() - begin)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    assert max(medians.values()) < 1.25 * min(medians.values()), medians
