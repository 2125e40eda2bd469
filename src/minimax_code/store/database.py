"""Connections to a store's database. What was committed survives the end of a process, and of the machine."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from minimax_code.errors import InputError, StoreError
from minimax_code.store.tables import VERSION, meta, metadata

_BUSY_S = 30  # how long SQLite waits for another process that writes
_CREATION_LOCK = 0x6D63_6F64_65  # "mcode": of PostgreSQL, for one process at a time


class Database:
    """One process's connections to a store.

    Args:
        url: `postgresql://USER@HOST/NAME`, or the path of a file for SQLite, made where it isn't there.

    Raises:
        InputError: it is neither.
        StoreError: it can't be reached, or a newer version of this package made it.
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self.shown = self._engine.url.render_as_string() if "://" in url else url  # without the password
        self.is_sqlite = self._engine.dialect.name == "sqlite"
        # SQLite has one writer: where threads take turns, none of them sleeps until it finds the file free.
        self._turn = threading.Lock() if self.is_sqlite else nullcontext()
        if self.is_sqlite:
            _make(Path(url))
        try:
            self._create_tables()
        except StoreError:
            self.close()
            raise

    @contextmanager
    def read(self) -> Generator[sa.Connection, None, None]:
        """A connection for one query.

        Raises:
            StoreError: the database can't be read.
        """
        with self._told(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Generator[sa.Connection, None, None]:
        """A transaction: when the block has ended all of it is on the disk, or nothing.

        Raises:
            StoreError: the database can't be written; what was there before is as it was.
        """
        with self._told(), self._turn, self._engine.begin() as connection:
            if self.is_sqlite:  # takes the lock now: a transaction that reads first could not write any more
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    def close(self) -> None:
        """Closes all connections."""
        self._engine.dispose()

    def _create_tables(self) -> None:
        with self.write() as connection:
            if not self.is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATION_LOCK)))
            metadata.create_all(connection)
            version = connection.execute(sa.select(meta.c.version)).scalar()
            if version is None:
                connection.execute(meta.insert().values(version=VERSION))
            elif version > VERSION:
                raise StoreError(f"{self.shown} is of a newer MiniMax Code; update this one with pip install -U openm3")
            elif version < VERSION:
                self._add_columns(connection)
                connection.execute(meta.update().values(version=VERSION))

    def _add_columns(self, connection: sa.Connection) -> None:
        """Those that came after the version that made the store; whole tables are there already."""
        existing = sa.inspect(connection)
        for table in metadata.sorted_tables:
            names = {column["name"] for column in existing.get_columns(table.name)}
            for column in (column for column in table.columns if column.name not in names):
                if not column.nullable and column.server_default is None:
                    raise StoreError(
                        f"{self.shown} is of a MiniMax Code that is too old: {table.name}.{column.name} is missing; "
                        "end its jobs with the version that began them, or give another store"
                    )
                told = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
                connection.execute(sa.text(f"ALTER TABLE {table.name} ADD COLUMN {told}"))

    @contextmanager
    def _told(self) -> Generator[None, None, None]:
        try:
            yield
        except DBAPIError as error:
            reason = str(error.orig).strip().splitlines()[0]
            raise StoreError(f"the store {self.shown} can't be used: {reason}") from error


def _engine(url: str) -> sa.Engine:
    if "://" not in url:
        engine = sa.create_engine(sa.URL.create("sqlite", database=url))
        sa.event.listen(engine, "connect", _prepare_sqlite)
        return engine
    try:
        parsed = sa.make_url(url)
    except ArgumentError as error:
        raise InputError("store", "is no URL such as postgresql://user@host/name") from error
    if parsed.drivername not in ("postgresql", "postgres"):
        raise InputError("store", f"{parsed.drivername}:// is not supported; give a postgresql:// URL or a file")
    try:
        return sa.create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise InputError("store", 'PostgreSQL needs its driver: pip install "psycopg[binary]>=3.2"') from error


def _prepare_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None  # transactions are begun by `write` alone
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_S * 1000}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # an event costs a wait for the disk: a step costs seconds anyway
    connection.execute("PRAGMA foreign_keys = ON")


def _make(path: Path) -> None:
    """The file, for its owner alone: it holds what agents have read."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError as error:
        raise StoreError(f"can't write the store {path} ({error.strerror})") from error
