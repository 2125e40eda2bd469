"""Stores of each kind: SQLite's file, and a schema on the PostgreSQL server that all tests share."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from pathlib import Path

import pytest

from helpers.clock import Clock
from helpers.postgres import new_schema
from minimax_code.store import Store

_names = itertools.count()


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "jobs.db")
    return new_schema(request.getfixturevalue("postgres_url"), f"jobs{next(_names)}")


@pytest.fixture
def clock() -> Clock:
    """Noon of 2026-03-01 in UTC."""
    return Clock(1_772_366_400.0)


@pytest.fixture
def store(store_url: str, clock: Clock) -> Generator[Store, None, None]:
    opened = Store(store_url, now=clock)
    yield opened
    opened.close()
