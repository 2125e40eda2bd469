"""`minimax-code apply`: brings a job's change to the user's files, or to a branch of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from minimax_code.cli.jobs import opened, store_option
from minimax_code.errors import InputError


@click.command()
@click.argument("job")
@click.option("--branch", metavar="NAME", help="Make a commit on a new branch; files, index and HEAD stay as they are.")
@click.option("--force", is_flag=True, help="Also a change that isn't proved.")
@store_option
def apply(job: str, branch: str | None, force: bool, store: str | None) -> None:
    """Apply what came of JOB to the folder that it was given.

    \b
    minimax-code apply job-1234567890
    minimax-code apply job-1234567890 --branch fix/rounding

    It is merged with what has changed there since. All of it or nothing: where it conflicts the files stay as they are.
    """
    from minimax_code.jobs import Job
    from minimax_code.jobs.spec import JobSpec
    from minimax_code.workbench.landing import apply_patch, commit_patch

    with opened(store) as kept:
        spec = JobSpec.model_validate(kept.job(job).spec, strict=False)
        result = Job(kept, job).get_results()
    if not spec.folder:
        raise InputError("job", f"{job} began with nothing, so there is no folder to change")
    if not result.diff:
        raise InputError("job", f"{job} has changed nothing")
    if not result.success and not force:
        raise InputError("job", f"{job} is {result.state}, so nothing proves its change; --force applies it still")
    folder, patch = Path(spec.folder), result.diff.encode()
    if branch:
        message = str(spec.task.get("description", job)).strip()
        commit = asyncio.run(commit_patch(patch, folder, branch, message))
        click.echo(f"{branch} is {commit[:12]}, on top of HEAD")
    else:
        click.echo(f"changed {', '.join(asyncio.run(apply_patch(patch, folder)))}")
