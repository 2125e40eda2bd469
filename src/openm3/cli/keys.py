"""`openm3 keys`: who may use the server, and `openm3 usage`: what they used."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openm3.errors import InputError

if TYPE_CHECKING:
    from openm3.server.accounts.database import Database
    from openm3.server.accounts.keys import KeyStore

_UNITS = {"m": 60, "h": 3600, "d": 86_400}


def database_option(command: Callable[..., None]) -> Callable[..., None]:
    """Adds `--database`, as `openm3 serve` has it."""
    return click.option(
        "--database",
        metavar="URL",
        help="Keys and books: a postgresql:// URL or SQLite's file.  [default: in the data folder]",
    )(command)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def keys() -> None:
    """Make, list, revoke and rotate the keys of the server.

    The server need not be stopped: what is changed counts at once, in every process that uses the same database.
    """


@keys.command()
@click.option("--plan", required=True, help="plus, max, ultra, or another plan of --plans.")
@click.option("--name", default="", help="Whose it is, or what it is for.")
@click.option("--expires", metavar="DAY|SPAN", help="Until when it is good: 2027-01-31 (UTC), 12h, 90d.")
@click.option("--plans", type=click.Path(path_type=Path), metavar="FILE", help="The plans file that the server has.")
@database_option
@json_option
def create(plan: str, name: str, expires: str | None, plans: Path | None, database: str | None, as_json: bool) -> None:
    """Make a key and print it; it can't be shown again.

    \b
    Examples:
      openm3 keys create --plan plus --name alice
      openm3 keys create --plan max --name ci --expires 90d
    """
    from openm3.server.accounts.plans import plan_named, read_plans

    plan_named(plan, read_plans(plans))
    with _store(database) as store:
        key, text = store.create(name=name, plan=plan, expires_at=_moment(expires) if expires else None)
    _print_key(key, text, as_json)


@keys.command("list")
@database_option
@json_option
def list_(database: str | None, as_json: bool) -> None:
    """List all keys, without their secrets."""
    now = time.time()
    with _store(database) as store:
        rows = [{**vars(key), "state": key.state(now)} for key in store.list()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo("no keys yet: `openm3 keys create --plan plus` makes one", err=True)
        return
    _print_table(
        ["key", "plan", "state", "created", "expires", "name"],
        [[row["id"], row["plan"], row["state"], _when(row["created_at"]), _when(row["expires_at"]), row["name"]]
         for row in rows],
    )  # fmt: skip


@keys.command()
@click.argument("key")
@database_option
def revoke(key: str, database: str | None) -> None:
    """Take a KEY out of use at once and for good; KEY is what `openm3 keys list` shows."""
    with _store(database) as store:
        revoked = store.revoke(key)
    click.echo(f"{revoked.id} is revoked", err=True)


@keys.command()
@click.argument("key")
@click.option(
    "--overlap", metavar="SPAN", help="How long the old key is still good: 30m, 12h, 7d.  [default: not at all]"
)
@database_option
@json_option
def rotate(key: str, overlap: str | None, database: str | None, as_json: bool) -> None:
    """Make a new secret for a KEY and print it; plan, name and usage stay."""
    with _store(database) as store:
        rotated, text = store.rotate(key, overlap_s=_span("overlap", overlap) if overlap else 0.0)
    _print_key(rotated, text, as_json)


@click.command()
@click.option("--key", help="Of this key alone.")
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="The first day, in UTC.")
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), help="The last day, in UTC.")
@database_option
@json_option
def usage(key: str | None, since: date | None, until: date | None, database: str | None, as_json: bool) -> None:
    """Print what keys have used, by day and model. Days are those of UTC.

    \b
    Examples:
      openm3 usage
      openm3 usage --since 2026-11-01 --json
    """
    from openm3.server.accounts.ledger import Ledger

    days = {"since": _day(since), "until": _day(until)}
    with _database(database) as opened:
        rows = [vars(row) for row in Ledger(opened).usage(key, **days)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo("nothing was used", err=True)
        return
    head = ["day", "key", "model", "requests", "prompt_tokens", "answer_tokens"]
    names = ["day", "key_id", *head[2:]]
    _print_table(head, [[f"{row[name]:,}" if type(row[name]) is int else row[name] for name in names] for row in rows])


@contextmanager
def _database(url: str | None) -> Generator[Database, None, None]:
    from openm3.server.accounts.database import Database, default_url

    database = Database(url or default_url())
    try:
        database.migrate()
        yield database
    finally:
        database.close()


@contextmanager
def _store(url: str | None) -> Generator[KeyStore, None, None]:
    from openm3.server.accounts.keys import KeyStore

    with _database(url) as database:
        yield KeyStore(database)


def _print_key(key: Any, text: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**vars(key), "key": text}, indent=2))
        return
    click.echo(text)
    click.echo(f"Keep it: it can't be shown again. Plan {key.plan}, expires {_when(key.expires_at)}.", err=True)


def _print_table(head: list[str], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        click.echo("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _moment(text: str) -> float:
    """Seconds since 1970 of a day's beginning in UTC, or of the end of a span that begins now."""
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        try:
            return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
        except ValueError as error:
            raise InputError("--expires", f"{text} is no day") from error
    return time.time() + _span("expires", text)


def _span(option: str, text: str) -> float:
    found = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if not found:
        raise InputError(f"--{option}", f"{text!r} is no span such as 30m, 12h or 90d")
    return int(found[1]) * _UNITS[found[2]]


def _when(moment: float | None) -> str:
    return "never" if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")


def _day(day: date | None) -> str | None:
    return None if day is None else day.strftime("%Y-%m-%d")
