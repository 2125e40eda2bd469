"""The `minimax-code` command: its group, and how errors end."""

from __future__ import annotations

import sys

import click

from minimax_code.cli.apply import apply
from minimax_code.cli.do import do, execute
from minimax_code.cli.doctor import doctor
from minimax_code.cli.jobs import jobs
from minimax_code.cli.review import review
from minimax_code.cli.start import start
from minimax_code.cli.worker import worker
from minimax_code.errors import CodeError

FAILED, INTERRUPTED = 1, 130


class TaskGroup(click.Group):
    """A group for which what is no command is a task: `minimax-code "Fix the rounding"`."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Puts the command `do` before a task, which has a space where no command has one."""
        first = next((arg for arg in args if not arg.startswith("-")), None)
        if first is not None and first not in self.commands and " " in first:
            args = ["do", *args]
        return super().parse_args(context, args)


@click.group(cls=TaskGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="openm3")
def minimax_code() -> None:
    """Agents that work on a copy of your repository and prove what they claim.

    \b
    minimax-code "Fix the rounding in cart.py"      does a task and shows the change
    minimax-code apply JOB                          brings it to your files
    minimax-code doctor                             tells what agents here have to work with

    Exits with 0, 1 where something failed, 2 for wrong arguments, 3 where a task isn't done, 130 after Ctrl-C.
    """


for command in (do, execute, apply, jobs, review, doctor, worker):
    minimax_code.add_command(command)
jobs.add_command(start)


def main() -> None:
    """Runs the command line; an error is one sentence and exit code 1."""
    try:
        minimax_code(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except CodeError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(FAILED)
