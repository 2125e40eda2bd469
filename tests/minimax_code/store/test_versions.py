"""Stores that an earlier version of the package made."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import psycopg
import pytest

from helpers.steps import UNKNOWN, work
from minimax_code.errors import StoreError
from minimax_code.events import ToolEnded
from minimax_code.jobs.worker import work_on
from minimax_code.store import Store
from minimax_code.store.tables import VERSION

VERSION_1 = Path(__file__).with_name("version1.sql").read_text()


def execute(store_url: str, script: str) -> None:
    if "://" in store_url:
        with psycopg.connect(store_url) as connection:
            connection.execute(script.encode())
    else:
        sqlite = sqlite3.connect(store_url)
        sqlite.executescript(script)
        sqlite.close()


def version(store: Store) -> int:
    with store._database.read() as connection:
        return connection.exec_driver_sql("SELECT version FROM minimax_code_store").scalar_one()


def test_jobs_of_version_1_go_on(store_url: str, tmp_path: Path) -> None:
    """The one that was cut off in its second step knows what was done, and that of one thing it isn't known."""
    execute(store_url, VERSION_1)
    store, effects = Store(store_url), tmp_path / "effects"
    assert version(store) == VERSION > 1
    assert [(row.id, row.queue, row.state) for row in store.jobs()] == [
        ("job-9876543210", "tasks", "passed"),
        ("job-0123456789", "tasks", "crashed_resumable"),
    ]
    effects.write_text("0\n1\n")
    asyncio.run(work_on(store, store.lease("job-0123456789", "new", 10), work(effects, 3)))
    assert store.job("job-0123456789").state == "passed"
    assert effects.read_text() == "0\n1\n2\n"
    ended = [one.event for one in store.events("job-0123456789") if isinstance(one.event, ToolEnded)]
    assert [one.output for one in ended] == ["added", UNKNOWN, "added"]
    store.close()
    again = Store(store_url)
    assert len(again.jobs()) == 2
    again.close()


def test_a_store_that_lacks_what_has_no_default_is_left_as_it_is(store_url: str) -> None:
    execute(store_url, f"{VERSION_1} ALTER TABLE jobs DROP COLUMN told;")
    for _ in range(2):
        with pytest.raises(StoreError, match=r"is of a MiniMax Code that is too old: jobs\.told is missing; end its"):
            Store(store_url)
