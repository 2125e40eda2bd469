"""`minimax-code jobs start`: a task in the background."""

from __future__ import annotations

from typing import Any

import click

from minimax_code.cli.jobs import jobs, opened
from minimax_code.cli.options import Wanted, work_options


@jobs.command()
@click.argument("description")
@work_options
@click.option("--days", type=click.FloatRange(0, min_open=True), help="How long it may be worked on.")
@click.option("--checkpoint-hours", type=click.FloatRange(0, min_open=True), help="How often `follow` tells of one.")
def start(description: str, days: float | None, checkpoint_hours: float | None, **options: Any) -> None:
    """Start a task in the background and print its job.

    \b
    minimax-code jobs start "Move the tests to pytest" --check pytest --days 2

    It goes on when the terminal is closed. Nobody is asked: what would need a question ends with the state
    "needs_input".
    """
    from minimax_code.jobs import Job

    wanted = Wanted(**options)
    spec = wanted.spec(description, max_duration_days=days, checkpoint_frequency_hours=checkpoint_hours)
    with opened(wanted.store) as store:
        click.echo(Job.start(store, spec, mcp_env=wanted.settings.mcp_env).id)
