"""The `minimax-code` command: its group, and how errors end."""

from __future__ import annotations

import sys

import click

from minimax_code.cli.jobs import jobs
from minimax_code.cli.review import review
from minimax_code.errors import CodeError

FAILED, INTERRUPTED = 1, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="openm3")
def minimax_code() -> None:
    """Agents that work on a copy of your repository and prove what they claim.

    Exits with 0, 1 where something failed, 2 for wrong arguments, 130 after Ctrl-C.
    """


COMMANDS: tuple[click.Command, ...] = (jobs, review)
for command in COMMANDS:
    minimax_code.add_command(command)


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
