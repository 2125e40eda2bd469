"""`minimax-code "TASK"` and `minimax-code exec "TASK"`: a job that this process does, and shows."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.live import Live

from minimax_code.cli.jobs import NOT_DONE, opened
from minimax_code.cli.options import Wanted, work_options
from minimax_code.cli.prompt import asker
from minimax_code.cli.view import Screen, show_diff
from minimax_code.errors import CodeError
from minimax_code.events import Recorded, dump
from minimax_code.permissions import Asker
from minimax_code.phrases import phrase, printable

if TYPE_CHECKING:
    from minimax_code.work.result import TaskResult


@click.command()
@click.argument("description")
@work_options
@click.option("--no-diff", is_flag=True, help="Don't print the change in the end.")
def do(description: str, no_diff: bool, **options: Any) -> None:
    """Do a task on a copy of the folder, and show the change. Your files stay as they are until you `apply` it.

    \b
    minimax-code "Fix the rounding in cart.py" --check "pytest tests/test_cart.py"

    Exits with 0 where the task is done and proved, with 3 where it isn't; the state says why.
    """
    wanted, console = Wanted(**options), Console()
    screen = Screen(description, wanted.limits)
    with _resumable() as begun, _shown(screen, console) as (show, aside):
        ask = asker(aside) if sys.stdin.isatty() else None
        job, result = asyncio.run(_do(description, wanted, ask, show, begun))
    _end(job, result, console, with_diff=not no_diff)


@click.command(name="exec")
@click.argument("description")
@work_options
def execute(description: str, **options: Any) -> None:
    """Do a task and print each event as a line of JSON; nobody is asked anything.

    \b
    minimax-code exec "Fix the rounding in cart.py" --check pytest | tail -1 | jq -r .diff

    The last line is the result, of kind "result". What would need a question ends with the state "needs_input".
    Exits with 0 where the task is done and proved, with 3 where it isn't.
    """
    with _resumable() as begun:
        job, result = asyncio.run(_do(description, Wanted(**options), None, _print_json, begun))
    told = {"kind": "result", "job": job, "success": result.success, **result.model_dump(mode="json")}
    click.echo(json.dumps(told))
    sys.exit(0 if result.success else NOT_DONE)


def _print_json(recorded: Recorded) -> None:
    kind, data = dump(recorded.event)
    click.echo(json.dumps({"seq": recorded.seq, "at": recorded.at.isoformat(), "kind": kind, "data": data}))


async def _do(
    description: str, wanted: Wanted, ask: Asker | None, show: Callable[[Recorded], None], begun: list[str]
) -> tuple[str, TaskResult]:
    """Does a task as a job of the store, so that it can be gone on with; the job's id, and its result.

    Args:
        begun: where the job's id goes once it is in the store.
    """
    from minimax_code.jobs import Job
    from minimax_code.jobs.here import Follower, work_here
    from minimax_code.tools.mcp import mcp_tools

    async def tell(recorded: Recorded) -> None:
        show(recorded)

    spec, servers, model = wanted.spec(description), wanted.settings.servers, wanted.server_model()
    with opened(wanted.store) as store:
        async with mcp_tools(servers) as tools:
            job = store.create(spec.model_dump(mode="json"))
            begun.append(job)
            try:
                async with Follower(store, job, tell).following():
                    await work_here(store, job, model=model, ask=ask, tools=tools)
            finally:
                await model.close()
        return job, Job(store, job).get_results()


@contextmanager
def _resumable() -> Generator[list[str], None, None]:
    """Says how to go on with a job where something ends the work before the job has ended."""
    begun: list[str] = []
    try:
        yield begun
    except (KeyboardInterrupt, click.Abort, CodeError):
        for job in begun:
            click.echo(f"{job} is kept; `minimax-code jobs resume {job}` goes on with it", err=True)
        raise


@contextmanager
def _shown(
    screen: Screen, console: Console
) -> Generator[tuple[Callable[[Recorded], None], Callable[[], Any]], None, None]:
    """The screen while it changes, on a terminal; elsewhere a line for each event. And how to put it aside."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield _line_printer(), _nothing
        return
    with Live(screen, console=console, refresh_per_second=8, transient=True) as live:

        @contextmanager
        def aside() -> Generator[None, None, None]:
            live.stop()
            try:
                yield
            finally:
                live.start(refresh=True)

        try:
            yield screen.read, aside
        finally:
            live.transient = False  # how it was in the end stays


@contextmanager
def _nothing() -> Generator[None, None, None]:
    yield


def _line_printer() -> Callable[[Recorded], None]:
    """Prints a line for each event, but for one that says what the line before it did."""
    before = ""

    def show(recorded: Recorded) -> None:
        nonlocal before
        agent, said = getattr(recorded.event, "agent", ""), phrase(recorded.event)
        line = f"{agent}: {said}" if agent else said
        if said and line != before:
            click.echo(f"{recorded.at.astimezone():%H:%M:%S} {line}")
            before = line

    return show


def _end(job: str, result: TaskResult, console: Console, *, with_diff: bool) -> None:
    if with_diff and result.diff:
        show_diff(console, result.diff)
    for line in str(result).splitlines():
        click.echo(printable(line))
    if result.diff:
        home = f"`minimax-code apply {job}` changes them"
        if not result.success:
            home = f"nothing proves the change, so only `minimax-code apply {job} --force` makes it"
        click.echo(f"your files are as they were; {home}")
    if not result.is_final:
        click.echo(f"`minimax-code jobs resume {job}` goes on; --budget and --time give it more")
    sys.exit(0 if result.success else NOT_DONE)
