from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa

from helpers.clock import Clock
from minimax_code.errors import InputError, LeaseError, StoreError
from minimax_code.events import ModelReplied, TaskEnded, ToolEnded, ToolIntended, Unknown
from minimax_code.model import Reply, ToolCall
from minimax_code.store import Lease, Store

INTENDED = ToolIntended(call=ToolCall(id="1", name="bash", arguments="{}"), tree="t0")
ENDED = ToolEnded(call_id="1", output="done", failed=False, tree="t1", seconds=0.5)


def taken(store: Store, owner: str = "a") -> Lease:
    """The lease of a new job."""
    return store.lease(store.create({"description": "x"}), owner, 10)


def add(store: Store, lease: Lease, *events: ToolIntended | ToolEnded) -> None:
    log = store.log(lease.job, lease)
    for event in events:
        asyncio.run(log.append(event))


def test_events_are_read_as_they_were_written(store: Store, store_url: str, clock: Clock) -> None:
    lease = taken(store)
    add(store, lease, INTENDED, ENDED)
    clock.now += 3
    add(store, lease, INTENDED)
    other = Store(store_url)
    read = other.events(lease.job)
    assert [(one.seq, one.event) for one in read] == [(1, INTENDED), (2, ENDED), (3, INTENDED)]
    assert read[2].at.timestamp() - read[1].at.timestamp() == 3
    assert other.events(lease.job, after=2) == read[2:]
    assert other.events(lease.job, after=3) == []
    assert [one.event for one in store.log(lease.job, lease).recorded] == [INTENDED, ENDED, INTENDED]
    other.close()


def test_what_no_encoding_holds_is_kept_readable(store: Store) -> None:
    lease = taken(store)
    log = store.log(lease.job, lease)
    recorded = asyncio.run(log.append(ModelReplied(reply=Reply(content="a\ud800b\x00\u20ac"))))
    assert recorded.event == ModelReplied(reply=Reply(content="a?b\x00\u20ac"))
    assert store.events(lease.job) == [recorded]


def test_parallel_agents_share_a_log(store: Store) -> None:
    lease = taken(store)
    log = store.log(lease.job, lease)

    async def agents() -> None:
        await asyncio.gather(*(log.append(INTENDED) for _ in range(20)))

    asyncio.run(agents())
    assert [one.seq for one in store.events(lease.job)] == list(range(1, 21))


def test_events_at_once_are_written_in_their_order_and_fail_alone(store: Store) -> None:
    """They wait for the disk together."""
    lease = taken(store)
    log = store.log(lease.job, lease)
    unreadable = Unknown(kind="ToolEnded", data={"call_id": 3})
    last = TaskEnded(result={"state": "passed"})

    async def at_once() -> list[object]:
        sent = [log.append(event) for event in (INTENDED, unreadable, ENDED)]
        return await asyncio.gather(*sent, log.end(last, "passed"), log.append(INTENDED), return_exceptions=True)

    first, wrong, second, third, late = map(str, asyncio.run(at_once()))
    assert [one.event for one in store.events(lease.job)] == [INTENDED, ENDED, last]
    assert list(map(str, store.events(lease.job))) == [first, second, third]
    assert "is of another MiniMax Code" in wrong and "has ended (passed)" in late
    assert store.job(lease.job).outcome == "passed"


def test_an_event_of_a_newer_version_is_kept(store: Store) -> None:
    lease = taken(store)
    log = store.log(lease.job, lease)
    asyncio.run(log.append(Unknown(kind="Dreamt", data={"of": ["sheep"]})))
    assert store.events(lease.job)[0].event == Unknown(kind="Dreamt", data={"of": ["sheep"]})


def test_what_could_not_be_read_is_not_written(store: Store) -> None:
    lease = taken(store)
    with pytest.raises(StoreError, match=r"event 1 of job-\w+ \(ToolEnded\) is of another MiniMax Code"):
        asyncio.run(store.log(lease.job, lease).append(Unknown(kind="ToolEnded", data={"call_id": 3})))
    assert store.events(lease.job) == []


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE events SET data = replace(data, 'done', 'dOne') WHERE seq = 2",
        "UPDATE events SET at = at + 1 WHERE seq = 2",
        "DELETE FROM events WHERE seq = 2",
        "UPDATE events SET kind = 'ToolIntended' WHERE seq = 2",
    ],
)
def test_the_chain_shows_what_was_changed(store: Store, damage: str) -> None:
    lease = taken(store)
    add(store, lease, INTENDED, ENDED, INTENDED)
    with store._database.write() as connection:
        connection.execute(sa.text(damage))
    with pytest.raises(StoreError, match=r"event 2 of job-\w+ is not what was written"):
        store.events(lease.job)
    with pytest.raises(StoreError, match="event 2"):
        store.log(lease.job, lease)


def test_one_worker_has_a_job(store: Store, clock: Clock) -> None:
    lease = taken(store)
    with pytest.raises(LeaseError, match=r"job-\w+ is held by a, which is alive"):
        store.lease(lease.job, "b", 10)
    clock.now += 9
    store.renew(lease)
    clock.now += 9
    with pytest.raises(LeaseError):
        store.lease(lease.job, "b", 10)
    clock.now += 1
    assert store.lease(lease.job, "b", 10).token == lease.token + 1


def test_a_late_write_is_refused(store: Store, clock: Clock) -> None:
    """Also on a log that was read while the lease was good, and even if the other worker wrote nothing."""
    lease = taken(store)
    log = store.log(lease.job, lease)
    asyncio.run(log.append(INTENDED))
    clock.now += 11
    asyncio.run(log.append(ENDED))  # late, but nobody has taken it: no harm
    second = store.lease(lease.job, "b", 10)
    with pytest.raises(LeaseError, match=r"job-\w+ was taken by b: nothing more of it can be written here"):
        asyncio.run(log.append(INTENDED))
    with pytest.raises(LeaseError):
        store.renew(lease)
    store.release(lease)
    assert store.job(lease.job).leased, "the second's"
    assert len(store.events(lease.job)) == len(log.recorded) == 2
    add(store, second, INTENDED)


def test_two_logs_of_one_lease(store: Store) -> None:
    lease = taken(store)
    first, second = store.log(lease.job, lease), store.log(lease.job, lease)
    asyncio.run(first.append(INTENDED))
    with pytest.raises(StoreError, match="open it again"):
        asyncio.run(second.append(INTENDED))


def test_the_next_job_is_the_oldest_that_is_free(store: Store, clock: Clock) -> None:
    jobs = []
    for _ in range(3):
        jobs.append(store.create({}))
        clock.now += 1
    store.wish(jobs[1], "pause")
    leases = [store.lease_next("w", 10), store.lease_next("w", 10), store.lease_next("w", 10)]
    assert [lease and lease.job for lease in leases] == [jobs[0], jobs[2], None]
    store.wish(jobs[1], "run")
    again = store.lease_next("w", 10)
    assert again and again.job == jobs[1]
    clock.now += 10
    again = store.lease_next("w", 10)
    assert again and (again.job, again.token) == (jobs[0], 2)


def test_workers_that_ask_at_once_get_different_jobs(store: Store) -> None:
    jobs = {store.create({}) for _ in range(12)}

    async def ask() -> list[Lease | None]:
        return await asyncio.gather(*(asyncio.to_thread(store.lease_next, f"w{i}", 10) for i in range(16)))

    leases = [lease for lease in asyncio.run(ask()) if lease]
    assert len(leases) == len({lease.job for lease in leases})
    while lease := store.lease_next("w", 10):  # one that met a locked row may have gone away with nothing
        leases.append(lease)
    assert {lease.job for lease in leases} == jobs
    assert len(leases) == len(jobs)


def test_states(store: Store, clock: Clock) -> None:
    job = store.create({"description": "x"})
    assert store.job(job).state == "waiting"
    lease = store.lease(job, "a", 10)
    assert store.job(job).state == "running"
    store.wish(job, "pause")
    assert store.job(job).state == "pausing"
    assert store.renew(lease, worked_s=2.5) == "pause"
    store.release(lease)
    assert store.job(job).state == "paused"
    with pytest.raises(StoreError, match=r"job-\w+ is paused, so nobody can work on it"):
        store.lease(job, "a", 10)
    store.wish(job, "run")
    lease = store.lease(job, "a", 10)
    clock.now += 10
    assert store.job(job).state == "crashed_resumable"
    asyncio.run(store.log(job, lease).end(ENDED, "passed"))
    store.wish(job, "cancel")
    row = store.job(job)
    assert (row.state, row.seq, row.worked_s, dict(row.spec)) == ("passed", 1, 2.5, {"description": "x"})


def test_what_has_ended_can_be_reopened(store: Store) -> None:
    lease = taken(store)
    log = store.log(lease.job, lease)
    asyncio.run(log.end(ENDED, "budget"))
    with pytest.raises(StoreError, match=r"job-\w+ has ended \(budget\): nothing can follow"):
        asyncio.run(log.append(INTENDED))
    store.release(lease)
    assert store.lease_next("b", 10) is None
    store.reopen(lease.job, {"more": 1})
    assert store.job(lease.job).spec == {"more": 1}
    again = store.lease_next("b", 10)
    assert again and again.job == lease.job
    add(store, again, INTENDED)


def test_an_owner_takes_its_own_again_at_once(store: Store) -> None:
    """Whoever started a worker knows that it is dead; the dead one's lease counts for nothing all the same."""
    lease = taken(store, "a")
    again = store.lease(lease.job, "a", 10)
    assert again.token == lease.token + 1
    with pytest.raises(LeaseError):
        add(store, lease, INTENDED)
    assert store.lease_next("a", 10) is None, "asking for any job is another matter"


def test_a_cancelled_job_stays_cancelled(store: Store) -> None:
    lease = taken(store)
    store.wish(lease.job, "cancel")
    store.wish(lease.job, "run")
    assert store.job(lease.job).state == "cancelling"
    store.release(lease)
    assert store.job(lease.job).state == "cancelled"
    assert store.lease_next("b", 10) is None


def test_what_callbacks_were_told_goes_only_forward(store: Store) -> None:
    job = store.create({})
    store.told(job, 3)
    store.told(job, 2)
    assert store.job(job).told == 3


def test_jobs_are_listed_newest_first(store: Store, clock: Clock) -> None:
    first = store.create({})
    clock.now += 1
    second = store.create({})
    assert [row.id for row in store.jobs()] == [second, first]


def test_an_unknown_job(store: Store) -> None:
    for ask in (lambda: store.job("job-0"), lambda: store.lease("job-0", "a", 1)):
        with pytest.raises(InputError, match="^job: there is no job-0 in "):
            ask()


def test_a_lease_of_another_job(store: Store) -> None:
    with pytest.raises(LeaseError, match="the lease is of"):
        store.log(store.create({}), taken(store))


def test_a_newer_store_is_left_alone(store: Store, store_url: str) -> None:
    with store._database.write() as connection:
        connection.execute(sa.text("UPDATE minimax_code_store SET version = 99"))
    with pytest.raises(StoreError, match="is of a newer MiniMax Code"):
        Store(store_url)


@pytest.mark.parametrize(
    ("url", "message"), [("mysql://localhost/x", "mysql:// is not supported"), ("://", "is no URL such as")]
)
def test_other_databases_are_refused(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Store(url)


def test_what_can_not_be_reached_is_told_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"postgresql\+psycopg://me:\*\*\*@") as told:
        Store(f"postgresql://me:secret@/x?host={tmp_path}")
    assert "secret" not in str(told.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_text("hello " * 1000)
    with pytest.raises(StoreError, match="file is not a database"):
        Store(str(tmp_path / "jobs.db"))


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    Store(str(tmp_path / "new" / "jobs.db")).close()
    assert (tmp_path / "new" / "jobs.db").stat().st_mode & 0o077 == 0
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="can't write the store"):
        Store(str(tmp_path / "file" / "jobs.db"))
