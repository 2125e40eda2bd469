"""`minimax-code jobs`: what was started, how it stands, and what its user wants of it."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from minimax_code.jobs import Job
    from minimax_code.store import Store

NOT_DONE = 3
"""The exit code where a task isn't done and proved."""
_POLL_S = 0.5
_NEWEST = 20
_IDLE = ("paused", "crashed_resumable")


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
@click.option("--all", "all_jobs", is_flag=True, help="Not only the newest.")
@click.pass_context
def jobs(context: click.Context, store: str | None, as_json: bool, all_jobs: bool) -> None:
    """List, follow, pause, resume and cancel jobs.

    \b
    minimax-code jobs                           lists the newest
    minimax-code jobs start "Port it to 3.13" --check pytest --days 2
    minimax-code jobs follow JOB                says what happens, until it ends
    minimax-code jobs resume JOB --budget '50 API calls'

    A job goes on when the program that started it ends; what it does is written down step by step, so that after a
    crash, a reboot or an upgrade `resume` goes on from the last step.
    """
    if context.invoked_subcommand:
        return
    from minimax_code.cli.listing import Listed, table

    with opened(store) as kept:
        rows = kept.jobs()
        listed = [Listed.of(kept, row) for row in (rows if as_json or all_jobs else rows[:_NEWEST])]
    if as_json:
        click.echo(json.dumps([one.json() for one in listed]))
        return
    if not rows:
        click.echo("no jobs yet; `minimax-code jobs start` starts one", err=True)
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for line in table(listed, width):
        click.echo(line)
    if len(rows) > len(listed):
        click.echo(f"{len(rows) - len(listed)} older ones are not shown; --all shows them", err=True)


@jobs.command()
@click.argument("job")
@store_option
@json_option
def show(job: str, store: str | None, as_json: bool) -> None:
    """How JOB stands, and what came of it.

    \b
    minimax-code jobs show job-1234567890
    minimax-code jobs show job-1234567890 --json | jq -r .result.diff
    """
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
    """Print what happens in JOB until it ends.

    \b
    minimax-code jobs follow job-1234567890 && minimax-code apply job-1234567890

    It may be worked on anywhere; Ctrl-C leaves it alone. With --json every event is a line; else the ones that matter
    to people. Exits with 0 where the task is done and proved, with 3 where it isn't.
    """
    from minimax_code.events import dump
    from minimax_code.jobs.status import Standing

    with opened(store) as kept:
        standing, waits = Standing(job), ""
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
                sys.exit(0 if row.state == "passed" else NOT_DONE)
            if row.state in _IDLE and row.state != waits:
                click.echo(f"{job} is {row.state}; `minimax-code jobs resume {job}` goes on with it", err=True)
            waits = row.state
            time.sleep(_POLL_S)


@jobs.command()
@click.argument("job")
@store_option
def pause(job: str, store: str | None) -> None:
    """Stop JOB once what it is doing has ended.

    \b
    minimax-code jobs pause job-1234567890

    Nothing is lost; `resume` goes on.
    """
    with _job(store, job) as handle:
        handle.pause()
        click.echo(handle.get_status().state)


@jobs.command()
@click.argument("job")
@click.option("--budget", help="More of it, where it is used up, as in '100 API calls', '2M tokens' or '$5'.")
@click.option("--time", "more_time", help="More of it, as in '30 minutes'.")
@store_option
def resume(job: str, budget: str | None, more_time: str | None, store: str | None) -> None:
    """Let JOB go on, with more of what it was allowed if you like.

    \b
    minimax-code jobs resume job-1234567890 --budget '50 API calls' --time '2 hours'

    One that was paused, whose worker is gone, or that has used up its budget or time.

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
    """End JOB for good, in the middle of what it is doing.

    \b
    minimax-code jobs cancel job-1234567890
    """
    with _job(store, job) as handle:
        handle.cancel()
        click.echo(handle.get_status().state)
