from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from openm3.errors import DatabaseError, InputError
from openm3.server.accounts.database import Database, metadata
from openm3.server.accounts.keys import KeyStore
from openm3.server.accounts.ledger import Ledger


def test_the_migrations_make_the_tables_that_the_program_knows(database: Database) -> None:
    with database.write() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_processes_that_start_at_once_migrate_once(database_url: str) -> None:
    script = "import sys; from openm3.server.accounts.database import Database; Database(sys.argv[1]).migrate()"
    started = [subprocess.Popen([sys.executable, "-c", script, database_url]) for _ in range(4)]
    assert [process.wait(60) for process in started] == [0, 0, 0, 0]
    database = Database(database_url)
    with database.read() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars().all() == ["0001"]
    database.close()


def test_a_database_that_the_first_version_has_made_keeps_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "accounts.db"
    with closing(sqlite3.connect(path)) as old:
        old.executescript(Path(__file__).with_name("first_version.sql").read_text())
    database = Database(str(path))
    database.migrate()
    with database.write() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    key = KeyStore(database).check("om3_mykzv3lsq7kjqamn_qxPxv2U8HV-0LwUnXJkD27AUxlVAALvkT2KfmecGOrk")
    assert key is not None and (key.name, key.plan) == ("old", "plus")
    ledger = Ledger(database)
    ledger.beat()  # charges what the killed process was granted
    [row] = ledger.usage(key.id)
    assert (row.model, row.requests, row.prompt_tokens, row.answer_tokens) == ("m", 4, 10 + 7, 28 + 64)
    database.close()


def test_a_newer_database_is_left_alone(database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseError, match="newer openm3"):
        database.migrate()


def test_a_transaction_is_whole_or_nothing(database: Database) -> None:
    insert = sa.text("INSERT INTO processes VALUES ('a', 1.0)")
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        connection.execute(insert)
        raise ZeroDivisionError
    with database.read() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM processes")).scalar_one() == 0


@pytest.mark.parametrize(
    ("url", "message"), [("mysql://localhost/x", "mysql:// is not supported"), ("://", "is no URL such as")]
)
def test_other_databases_are_refused(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Database(url)


def test_what_can_not_be_reached_is_told_without_the_password(tmp_path: Path) -> None:
    database = Database(f"postgresql://me:secret@/x?host={tmp_path}")
    with pytest.raises(DatabaseError, match=r"postgresql\+?.*://me:\*\*\*@") as told:
        database.migrate()
    assert "secret" not in str(told.value)
    database.close()


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "new" / "accounts.db"))
    database.migrate()
    database.close()
    assert (tmp_path / "new" / "accounts.db").stat().st_mode & 0o077 == 0


def test_a_file_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    database = Database(str(tmp_path / "file" / "accounts.db"))
    with pytest.raises(DatabaseError, match="can't write the database"):
        database.migrate()
    database.close()
