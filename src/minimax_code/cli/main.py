"""The `minimax-code` command: its group, and how errors end."""

from __future__ import annotations

import sys
from importlib import import_module
from io import TextIOWrapper

import click

from minimax_code.errors import CodeError

FAILED, INTERRUPTED = 1, 130
# Where each command is, and what it does. Most bring an HTTP client or a terminal's screen, which `--help` needs not.
COMMANDS = {
    "do": ("minimax_code.cli.do:do", "Do a task on a copy of the folder, and show the change."),
    "exec": ("minimax_code.cli.do:execute", "Do a task and print each event as a line of JSON."),
    "apply": ("minimax_code.cli.apply:apply", "Apply a task's result to your files, or to a branch."),
    "jobs": ("minimax_code.cli.start:jobs", "Start, list, follow, pause, resume and cancel jobs."),
    "review": ("minimax_code.cli.review:review", "Review a change: of a local repository, or a pull request."),
    "acp": ("minimax_code.cli.acp:acp", "Serve an editor that speaks the Agent Client Protocol."),
    "doctor": ("minimax_code.cli.doctor:doctor", "Tell which sandbox, tools and model are used, and why."),
    "worker": ("minimax_code.cli.worker:worker", "Work off the jobs of a store."),
}


class TaskGroup(click.Group):
    """A group for which what is no command is a task: `minimax-code "Fix the rounding"`."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Puts the command `do` before a task, which has a space where no command has one."""
        first = next((arg for arg in args if not arg.startswith("-")), None)
        if first is not None and first not in self.commands and " " in first:
            args = ["do", *args]
        return super().parse_args(context, args)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Imports the command that is run; the group itself knows names and sentences."""
        name, command, rest = super().resolve_command(context, args)
        if name in COMMANDS:
            module, _, attribute = COMMANDS[name][0].partition(":")
            command = getattr(import_module(module), attribute)
        return name, command, rest


@click.group(cls=TaskGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="openm3")
def minimax_code() -> None:
    """Agents that work on a copy of your repository and prove what they claim.

    \b
    minimax-code "Fix the rounding in cart.py"      does a task and shows the change
    minimax-code apply JOB                          brings it to your files
    minimax-code jobs                               tasks so far, and those that run in the background
    minimax-code review main..HEAD                  what a change breaks, with proof
    minimax-code doctor                             tells what agents here have to work with

    Exits with 0, 1 where something failed, 2 for wrong arguments, 3 where a task isn't done, 130 after Ctrl-C.
    """


for name, (_, does) in COMMANDS.items():
    minimax_code.add_command(click.Command(name, short_help=does))


def main() -> None:
    """Runs the command line; an error is one sentence and exit code 1."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a terminal can't show or say ends nothing
    try:
        sys.exit(minimax_code(standalone_mode=False))  # what a command gave to `Context.exit`
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except CodeError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(FAILED)
