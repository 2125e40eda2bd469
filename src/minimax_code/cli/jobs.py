"""`minimax-code jobs`: what was started, how it stands, and what its user wants of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from minimax_code.jobs import Job
    from minimax_code.store import Store

_POLL_S = 0.5


def store_option(command: Callable[..., None]) -> Callable[..., None]:
    """Adds `--store`."""
    return click.option(
        "--store",
        metavar="URL",
        envvar="MINIMAX_CODE_STORE",
        show_envvar=True,
        help="Where jobs are kept: a postgresql:// URL or SQLite's file.  [default: in the data folder]",
    )(command)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@contextmanager
def opened(url: str | None) -> Generator[Store, None, None]:
    """The store of this URL, or the default one."""
    from minimax_code.store import Store, default_url

    store = Store(url or default_url())
    try:
        yield store
    finally:
        store.close()


@contextmanager
def _job(url: str | None, job: str) -> Generator[Job, None, None]:
    from minimax_code.jobs import Job

    with opened(url) as store:
        yield Job(store, job)


@click.group(invoke_without_command=True)
@store_option
@json_option
@click.pass_context
def jobs(context: click.Context, store: str | None, as_json: bool) -> None:
    """List, follow, pause, resume and cancel jobs.

    Without a command it lists them. A job goes on when the program that started it ends; what it does is written down
    step by step, so that after a crash, a reboot or an upgrade `resume` goes on from the last step.
    """
    if context.invoked_subcommand:
        return
    with opened(store) as kept:
        rows = kept.jobs()
    if as_json:
        fields = [(row, {"id": row.id, "state": row.state, "created_at": row.created_at.isoformat()}) for row in rows]
        click.echo(json.dumps([listed | {"worked_s": row.worked_s, "events": row.seq} for row, listed in fields]))
        return
    if not rows:
        click.echo("no jobs yet", err=True)
    for row in rows:
        about = " ".join(str(row.spec.get("task", row.spec).get("description", "")).split())
        click.echo(f"{row.id}  {row.state:<18} {row.created_at.astimezone():%Y-%m-%d %H:%M}  {about[:60]}")


@jobs.command()
@click.argument("job")
@store_option
@json_option
def show(job: str, store: str | None, as_json: bool) -> None:
    """How a job stands, and what came of it."""
    with _job(store, job) as handle:
        status = handle.get_status()
        result = handle.get_results() if handle.has_result else None
    if as_json:
        told: dict[str, Any] = {"job": job, **vars(status), "worked": status.worked.total_seconds()}
        told["updated_at"] = status.updated_at.isoformat() if status.updated_at else None
        told["result"] = result.model_dump(mode="json") if result else None
        click.echo(json.dumps(told))
        return
    click.echo(f"state     {status.state}")
    click.echo(f"phase     {status.current_phase} ({status.progress:g}%)")
    click.echo(f"steps     {status.tasks_completed} of {status.tasks_total} done")
    click.echo(f"model     {status.model_calls} calls, {status.tokens:,} tokens")
    click.echo(f"worked    {status.worked}")
    for issue in status.issues:
        click.echo(f"issue     {issue}")
    if result:
        click.echo(f"result    {result}")


@jobs.command()
@click.argument("job")
@store_option
@json_option
def follow(job: str, store: str | None, as_json: bool) -> None:
    """Print what happens in a job until it ends; Ctrl-C leaves it alone.

    With --json every event is a line; else the ones that matter to people.
    """
    from minimax_code.events import dump
    from minimax_code.jobs.status import Standing

    with opened(store) as kept:
        standing = Standing(job)
        while True:
            row = kept.job(job)
            recorded = kept.events(job, standing.seq)
            updates = standing.read(recorded)
            if as_json:
                for one in recorded:
                    kind, data = dump(one.event)
                    click.echo(json.dumps({"seq": one.seq, "at": one.at.isoformat(), "kind": kind, "data": data}))
            else:
                for update in updates:
                    at = f"{update.timestamp.astimezone():%Y-%m-%d %H:%M:%S}"
                    click.echo(f"{at}  {update.progress:>3.0f}%  {update.phase}: {update.message}")
            if row.has_ended and row.seq == standing.seq:
                return
            time.sleep(_POLL_S)


@jobs.command()
@click.argument("job")
@store_option
def pause(job: str, store: str | None) -> None:
    """Stop a job once what it is doing has ended."""
    with _job(store, job) as handle:
        handle.pause()
        click.echo(handle.get_status().state)


@jobs.command()
@click.argument("job")
@click.option("--budget", help="More of it, where it is used up, as in '100 API calls', '2M tokens' or '$5'.")
@click.option("--time", "more_time", help="More of it, as in '30 minutes'.")
@store_option
def resume(job: str, budget: str | None, more_time: str | None, store: str | None) -> None:
    """Let a job go on that was paused, whose worker is gone, or that has used up what it was allowed.

    The key of the model's server is read from MINIMAX_API_KEY, and what servers of tools get in their environment from
    the settings: neither is ever stored.
    """
    from minimax_code.cli.settings import read_settings
    from minimax_code.jobs import Job

    with opened(store) as kept:
        handle = Job(kept, job, mcp_env=read_settings().mcp_env)
        handle.resume(budget=budget, time=more_time)
        click.echo(handle.get_status().state)


@jobs.command()
@click.argument("job")
@store_option
def cancel(job: str, store: str | None) -> None:
    """End a job for good, in the middle of what it is doing."""
    with _job(store, job) as handle:
        handle.cancel()
        click.echo(handle.get_status().state)
