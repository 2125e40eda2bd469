"""Where keys and books are kept: SQLite in the data folder, or PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError

from openm3 import hub
from openm3.errors import DatabaseError, InputError

T = TypeVar("T")

metadata = sa.MetaData()

# Times are seconds since 1970; days are those of UTC, as YYYY-MM-DD.
keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("old_digest", sa.LargeBinary),  # of the key before a rotation,
    sa.Column("old_until", sa.Double),  # which is good until then
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
)
processes = sa.Table(
    "processes",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("lease_until", sa.Double, nullable=False),
)
requests = sa.Table(
    "requests",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("key_id", sa.Text, sa.ForeignKey("keys.id"), nullable=False),
    sa.Column("process_id", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("day", sa.Text, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("reserved", sa.BigInteger, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("granted", sa.BigInteger, nullable=False),
    sa.Column("settled_at", sa.Double),
    sa.Index("requests_of_key", "key_id", "started_at"),
)
usage = sa.Table(
    "usage",
    metadata,
    sa.Column("key_id", sa.Text, sa.ForeignKey("keys.id"), primary_key=True),
    sa.Column("day", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("answer_tokens", sa.BigInteger, nullable=False),
)

_MIGRATION_LOCK = 0x6F70656E6D33  # "openm3": of PostgreSQL, for one process at a time
_BUSY_MS = 30_000  # how long SQLite waits for another process that writes
_POSTGRES_THREADS = 8


def default_folder() -> str:
    """Where a server's data are, if nothing else is asked for: `OPENM3_HOME`, else the platform's data folder."""
    if os.environ.get("OPENM3_HOME"):
        return str(hub.home())
    import platformdirs

    return str(platformdirs.user_data_path("openm3"))


def default_url() -> str:
    """SQLite's file in that folder."""
    return str(Path(default_folder()) / "accounts.db")


class Database:
    """One process's connections.

    Args:
        url: `postgresql://USER@HOST/NAME`, or the path of a file for SQLite, made where it isn't there.

    Raises:
        InputError: it is neither.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = _engine(url)
        self.is_sqlite = self._engine.dialect.name == "sqlite"
        # SQLite has one writer: where threads take turns, none of them sleeps until it finds the file free.
        self._turn = threading.Lock()
        self._threads = ThreadPoolExecutor(1 if self.is_sqlite else _POSTGRES_THREADS, "openm3-database")

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Does something with the database beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    @contextmanager
    def read(self) -> Generator[sa.Connection, None, None]:
        """A connection for one query; each sees what was written before it.

        Raises:
            DatabaseError: the database can't be reached.
        """
        with _told(self.url), self._engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def write(self) -> Generator[sa.Connection, None, None]:
        """A transaction: all of it is written at the end of the block, or nothing.

        Raises:
            DatabaseError: the database can't be reached.
        """
        with _told(self.url), self._turn_to_write(), self._engine.begin() as connection:
            if self.is_sqlite:  # takes the lock now: a transaction that reads first could not write any more
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    def migrate(self) -> None:
        """Brings the tables up to date, one process at a time.

        Raises:
            DatabaseError: the database can't be reached, or is newer than this program.
        """
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        if self.is_sqlite:
            _make(Path(self.url))
        config = Config()
        config.set_main_option("script_location", f"{__package__}:migrations")
        with self.write() as connection:
            if not self.is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError as error:
                raise DatabaseError(f"{_shown(self.url)} is of a newer openm3; update this one") from error

    def close(self) -> None:
        """Waits for what is being done, and closes all connections."""
        self._threads.shutdown()
        self._engine.dispose()

    @contextmanager
    def _turn_to_write(self) -> Generator[None, None, None]:
        if not self.is_sqlite:
            yield
            return
        with self._turn:
            yield


def _engine(url: str) -> sa.Engine:
    if "://" not in url:
        engine = sa.create_engine(sa.URL.create("sqlite", database=url), connect_args={"check_same_thread": False})
        sa.event.listen(engine, "connect", _prepare_sqlite)
        return engine
    try:
        parsed = sa.make_url(url)
    except ArgumentError as error:
        raise InputError("database", "is no URL such as postgresql://user@host/name") from error
    if parsed.drivername not in ("postgresql", "postgres"):
        raise InputError("database", f"{parsed.drivername}:// is not supported; give a postgresql:// URL or a file")
    return sa.create_engine(
        parsed.set(drivername="postgresql+psycopg"), pool_size=_POSTGRES_THREADS, pool_pre_ping=True
    )


def _prepare_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None  # transactions are begun by `write` alone
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    # What was committed survives the end of any process. A power failure may cost the last moments, nothing else.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _make(path: Path) -> None:
    """The file, readable by its owner alone: who can read digests can't use them, but names and usage are private."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError as error:
        raise DatabaseError(f"can't write the database {path} ({error.strerror})") from error


@contextmanager
def _told(url: str) -> Generator[None, None, None]:
    try:
        yield
    except DBAPIError as error:
        if isinstance(error, sa.exc.IntegrityError):
            raise
        reason = str(error.orig).strip().splitlines()[0]
        raise DatabaseError(f"the database {_shown(url)} can't be used: {reason}") from error


def _shown(url: str) -> str:
    """Without the password."""
    return sa.make_url(url).render_as_string() if "://" in url else url
