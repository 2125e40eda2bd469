"""The ledger against books in plain Python, and its promises: one after the other, at once, and over midnight."""

from __future__ import annotations

import multiprocessing
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.books import Books
from openm3.errors import DatabaseError
from openm3.server.accounts.database import Database
from openm3.server.accounts.keys import KeyStore
from openm3.server.accounts.ledger import LEASE_S, WINDOW, Entry, Ledger, LimitError
from openm3.server.accounts.plans import Plan

PLAN = Plan(
    name="small",
    tokens_per_day=1000,
    requests_per_minute=6,
    concurrent_requests=4,
    max_context=900,
    answer_tokens=200,
    weight=1.0,
    models=("*", "!custom/*"),
)
FREE = replace(PLAN, requests_per_minute=None, concurrent_requests=None, max_context=None)


def key(database: Database) -> str:
    return KeyStore(database).create(name="test", plan="small")[0].id


def ledger(database: Database, clock: Any) -> Ledger:
    opened = Ledger(database, clock)
    opened.beat()
    return opened


def used(under_test: Ledger, key_id: str) -> dict[str, int]:
    """Tokens by day."""
    total: Counter[str] = Counter()
    for row in under_test.usage(key_id):
        total[row.day] += row.prompt_tokens + row.answer_tokens
    return dict(total)


operations = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.integers(0, 2), st.integers(0, 300), st.none() | st.integers(1, 500)),
        st.tuples(st.just("extend"), st.integers(0, 20), st.floats(0, 1), st.none()),
        st.tuples(st.just("settle"), st.integers(0, 20), st.floats(0, 1), st.none()),
        st.tuples(st.just("wait"), st.sampled_from([1, 7, 20, 59, 61, 3_000, 43_200]), st.none(), st.none()),
        st.tuples(st.just("die"), st.integers(0, 2), st.none(), st.none()),
        st.tuples(st.just("sweep"), st.integers(0, 2), st.none(), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.sampled_from([PLAN, FREE, replace(FREE, tokens_per_day=None, answer_tokens=None)]), steps=operations)
def test_random_operations(database: Database, clock: Any, plan: Plan, steps: list[Any]) -> None:
    """Three processes; one that dies says nothing more, and another one comes in its place."""
    key_id, books = key(database), Books(plan)
    names = [0, 1, 2]
    ledgers = {name: ledger(database, clock) for name in names}
    entries: list[tuple[int, Entry]] = []

    def beat() -> None:
        for name in names:
            ledgers[name].beat()
        for name in names:
            books.beat(name, clock.now)

    beat()
    for kind, first, second, third in steps:
        if kind == "reserve":
            process = names[first]
            expected = books.reserve(process, clock.now, second, third)
            try:
                entry = ledgers[process].reserve(key_id, plan, "m", second, third)
            except LimitError as error:
                assert error.code == expected
            else:
                assert entry.answer_tokens == expected
                entries.append((process, entry))
        elif kind in ("extend", "settle") and entries:
            number = first % len(entries)
            (process, entry), book = entries[number], books.entries[number]
            tokens = round(second * min(entry.answer_tokens or 500, book.granted + WINDOW))
            if kind == "settle":
                books.settle(book, book.prompt, tokens)
                ledgers[process].settle(entry, book.prompt, tokens)
            else:
                assert ledgers[process].extend(entry, tokens) == books.extend(book, tokens)
        elif kind == "wait":
            clock.now += first
            beat()
        elif kind == "die":
            names[first] = max(ledgers) + 1
            ledgers[names[first]] = ledger(database, clock)
            books.beat(names[first], clock.now)
        elif kind == "sweep":
            ledgers[names[first]].sweep()
            books.sweep(clock.now)
        left = ledgers[names[0]].allowance(key_id, plan)
        assert left.used_tokens + left.reserved_tokens == books.spoken_for(clock.now)
    clock.now += 2 * LEASE_S
    ledgers[names[0]].sweep()
    books.sweep(clock.now)
    by_day = {datetime.fromtimestamp(day * 86_400, UTC).date().isoformat(): n for day, n in books.used.items() if n}
    assert used(ledgers[names[0]], key_id) == by_day


def test_threads_share_a_quota_to_the_token(database: Database, clock: Any) -> None:
    key_id, under_test = key(database), ledger(database, clock)
    granted: list[int] = []

    def take(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(15):
            try:
                entry = under_test.reserve(key_id, FREE, "m", chance.randint(1, 20), chance.randint(1, 30))
            except LimitError:
                continue
            assert entry.answer_tokens is not None
            spent = (5, chance.randint(0, entry.answer_tokens))
            under_test.settle(entry, *spent)
            granted.append(sum(spent))

    threads = [threading.Thread(target=take, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = under_test.allowance(key_id, FREE)
    assert (left.used_tokens, left.reserved_tokens) == (sum(granted), 0)
    assert sum(granted) <= 1000
    rest = under_test.reserve(key_id, FREE, "m", 0, 1000 - sum(granted))
    with pytest.raises(LimitError, match=" 0 are left"):
        under_test.reserve(key_id, FREE, "m", 0, 1)
    under_test.settle(rest, 0, 1000 - sum(granted))


def _take(url: str, key_id: str, seed: int, told: Any) -> None:
    """What a process does: it takes small pieces until nothing is left."""
    database = Database(url)
    under_test, chance, total = Ledger(database), random.Random(seed), 0
    under_test.beat()
    while True:
        try:
            entry = under_test.reserve(key_id, FREE, f"m{seed}", 0, chance.randint(1, 40))
        except LimitError as error:
            if " 0 are left" in str(error):
                break
            continue
        assert entry.answer_tokens is not None
        under_test.settle(entry, 0, entry.answer_tokens)
        total += entry.answer_tokens
    told.put(total)
    told.close()
    told.join_thread()
    database.close()


def test_processes_share_a_quota_to_the_token(database: Database, database_url: str) -> None:
    key_id, spawn = key(database), multiprocessing.get_context("spawn")
    told = spawn.Queue()
    started = [spawn.Process(target=_take, args=(database_url, key_id, seed, told)) for seed in range(3)]
    for process in started:
        process.start()
    totals = [told.get(timeout=60) for _ in started]
    for process in started:
        process.join(60)
    assert sum(totals) == 1000
    assert sum(used(Ledger(database), key_id).values()) == 1000


def test_a_request_is_charged_to_the_day_on_which_it_began(database: Database, clock: Any) -> None:
    clock.now = 1_772_409_590.0  # ten seconds before midnight
    key_id, under_test = key(database), ledger(database, clock)
    late = under_test.reserve(key_id, FREE, "m", 100, 900)
    with pytest.raises(LimitError, match=" 0 are left.*the day ends in 10s") as refused:
        under_test.reserve(key_id, FREE, "m", 1, 1)
    assert refused.value.retry_s == 10
    clock.now += 10
    fresh = under_test.reserve(key_id, FREE, "m", 100, 900)
    under_test.settle(late, 100, 300)
    under_test.settle(fresh, 100, 200)
    assert used(under_test, key_id) == {"2026-03-01": 400, "2026-03-02": 300}
    assert under_test.allowance(key_id, FREE).tokens_left == 700


def test_what_no_day_can_give_is_not_worth_waiting_for(database: Database, clock: Any) -> None:
    key_id, under_test = key(database), ledger(database, clock)
    with pytest.raises(LimitError, match="may come to 1001 tokens and 1000 are left") as refused:
        under_test.reserve(key_id, FREE, "m", 1, 1000)
    assert refused.value.retry_s is None


def test_what_a_dead_process_was_granted_is_charged_once(database: Database, clock: Any) -> None:
    key_id, dead, alive = key(database), ledger(database, clock), ledger(database, clock)
    entry = dead.reserve(key_id, FREE, "m", 10, 300)
    assert dead.extend(entry, 2 * WINDOW)
    clock.now += LEASE_S - 1
    alive.beat()
    assert alive.allowance(key_id, FREE).reserved_tokens == 310, "it might still be alive"
    clock.now += 1
    alive.beat()
    assert used(alive, key_id) == {"2026-03-01": 10 + 2 * WINDOW}
    assert not dead.extend(entry, 3 * WINDOW), "it was only slow, and must stop"
    dead.settle(entry, 10, 300)
    assert used(alive, key_id) == {"2026-03-01": 10 + 2 * WINDOW}


def test_what_could_not_be_settled_is_settled_when_the_database_is_back(database: Database, clock: Any) -> None:
    key_id, under_test = key(database), ledger(database, clock)
    entry = under_test.reserve(key_id, FREE, "m", 10, 300)
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE requests RENAME TO gone")
    with pytest.raises(DatabaseError):
        under_test.settle(entry, 10, 20)
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE gone RENAME TO requests")
    assert under_test.allowance(key_id, FREE).reserved_tokens == 310
    under_test.beat()
    assert used(under_test, key_id) == {"2026-03-01": 30}
    assert under_test.allowance(key_id, FREE).reserved_tokens == 0


def test_requests_per_minute_are_those_of_any_60_seconds(database: Database, clock: Any) -> None:
    plan = replace(FREE, requests_per_minute=2)
    key_id, under_test = key(database), ledger(database, clock)
    for wait in (0, 50):
        clock.now += wait
        under_test.settle(under_test.reserve(key_id, plan, "m", 1, 1), 1, 1)
    with pytest.raises(LimitError, match="may begin in 10s") as refused:
        under_test.reserve(key_id, plan, "m", 1, 1)
    assert (refused.value.code, refused.value.retry_s) == ("rate_limit_exceeded", 10)
    clock.now += 10
    under_test.reserve(key_id, plan, "m", 1, 1)
    assert under_test.allowance(key_id, plan).requests_left == 0


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (("custom/mine", 1, 1), "model_not_allowed"),
        (("m", 901, None), "context_length_exceeded"),
        (("m", 500, 401), "context_length_exceeded"),
    ],
)
def test_what_a_plan_does_not_have_is_refused_for_good(
    database: Database, clock: Any, asked: tuple[str, int, int | None], code: str
) -> None:
    with pytest.raises(LimitError) as refused:
        ledger(database, clock).reserve(key(database), PLAN, *asked)
    assert (refused.value.code, refused.value.retry_s) == (code, None)


@pytest.mark.parametrize(("prompt", "most"), [(100, 200), (850, 50), (700, 200)])
def test_an_answer_without_a_limit_gets_what_plan_and_context_leave(
    database: Database, clock: Callable[[], float], prompt: int, most: int
) -> None:
    assert ledger(database, clock).reserve(key(database), PLAN, "m", prompt, None).answer_tokens == most
