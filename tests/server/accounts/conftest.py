"""Databases for keys and books: SQLite's file, and one on a PostgreSQL server that all tests share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from helpers.clock import Clock
from helpers.postgres import new_schema
from openm3.server.accounts.database import Database

_names = itertools.count()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "accounts.db")
    return new_schema(request.getfixturevalue("postgres_url"), f"test{next(_names)}")


@pytest.fixture
def database(database_url: str) -> Generator[Database, None, None]:
    opened = Database(database_url)
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Callable[[], float]:
    """Noon of 2026-03-01 in UTC."""
    return Clock(1_772_366_400.0)
