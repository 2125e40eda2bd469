from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from openm3.cli.main import openm3
from openm3.errors import InputError
from openm3.server.accounts.database import Database
from openm3.server.accounts.keys import KeyStore
from openm3.server.accounts.ledger import Ledger
from openm3.server.accounts.plans import read_plans


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENM3_HOME", str(tmp_path))
    return tmp_path


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(openm3, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_key_from_its_making_to_its_end(home: Path) -> None:
    assert "no keys yet" in run("keys", "list").stderr
    made = run("keys", "create", "--plan", "max", "--name", "alice", "--expires", "90d")
    text = made.stdout.strip()
    assert "can't be shown again" in made.stderr
    database = Database(str(home / "accounts.db"))
    store = KeyStore(database)
    key = store.check(text)
    assert key is not None and (key.name, key.plan) == ("alice", "max")
    listed = run("keys", "list").stdout
    assert key.id in listed and "active" in listed and "alice" in listed
    assert text.removeprefix(key.id) not in listed
    rotated = run("keys", "rotate", key.id, "--overlap", "1h").stdout.strip()
    assert store.check(text) == store.check(rotated) == key
    assert run("keys", "revoke", key.id).exit_code == 0
    assert store.check(rotated) is None
    [row] = json.loads(run("keys", "list", "--json").stdout)
    assert (row["id"], row["state"]) == (key.id, "revoked")
    database.close()


def test_usage_by_day_key_and_model(home: Path) -> None:
    assert "nothing was used" in run("usage").stderr
    key = json.loads(run("keys", "create", "--plan", "plus", "--json").stdout)
    database, plan = Database(str(home / "accounts.db")), read_plans()["plus"]
    ledger = Ledger(database, lambda: 1_772_366_400.0)
    ledger.beat()
    ledger.settle(ledger.reserve(key["id"], plan, "m", 1000, 500), 1000, 234)
    database.close()
    [head, row] = run("usage").stdout.splitlines()
    assert head.split() == ["day", "key", "model", "requests", "prompt_tokens", "answer_tokens"]
    assert row.split() == ["2026-03-01", key["id"], "m", "1", "1,000", "234"]
    assert json.loads(run("usage", "--until", "2026-02-28", "--json").stdout) == []
    assert len(json.loads(run("usage", "--since", "2026-03-01", "--key", key["id"], "--json").stdout)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", "--plan", "pluss"], "plan: there is no plan 'pluss'; did you mean 'plus'"),
        (["create", "--plan", "plus", "--expires", "soon"], "--expires: 'soon' is no span such as 30m"),
        (["create", "--plan", "plus", "--expires", "2026-02-30"], "--expires: 2026-02-30 is no day"),
        (["create", "--plan", "plus", "--expires", "2020-01-01"], "expires: lies in the past"),
        (["revoke", "om3_none"], "key: there is no key 'om3_none'"),
        (["list", "--database", "mysql://x/y"], "database: mysql:// is not supported"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(home: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run("keys", *arguments)
