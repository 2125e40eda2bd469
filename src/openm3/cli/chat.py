"""`openm3 chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from contextlib import suppress

import click

from openm3.cli.answer import show_answer, summary
from openm3.cli.options import ModelOptions, SamplingOptions, model_options, sampling_options
from openm3.context.files import QUESTION
from openm3.errors import InputError

_HELP = "/reset forgets the conversation, /exit or Ctrl-D ends, Ctrl-C stops an answer"


@click.command()
@click.option("--system", metavar="TEXT", help="What the model is told before the conversation.")
@click.option(
    "--load",
    "loaded",
    metavar="NAME",
    help="Talk about a context of `openm3 context save`, without reading it again; with its model and options.",
)
@model_options
@sampling_options(temperature=0.2, frequency_penalty=0.5, max_tokens=512)
def chat(
    system: str | None, loaded: str | None, model_options: ModelOptions, sampling_options: SamplingOptions
) -> None:
    """Talk with a model, turn by turn.

    Lines come from the terminal or a pipe. /reset forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C stops
    the answer and not the program.

    \b
    Examples:
      openm3 chat
      openm3 chat --system "You answer in one sentence." --temperature 0
      openm3 chat --load sources
    """
    params = sampling_options.params()
    if loaded is not None and system is not None:
        raise InputError("--system", "would come before the context, which was read without it; leave it out")
    llm, files = (model_options.load(), None) if loaded is None else model_options.load_with(loaded)
    interactive = sys.stdin.isatty()
    if interactive:
        with suppress(ImportError):
            import readline  # noqa: F401  # arrow keys and history for input()
        click.echo(f"{llm.name} · {_HELP}", err=True)
    start = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    while (line := _read_line(interactive)) is not None:
        match line.strip():
            case "":
                continue
            case "/exit":
                return
            case "/reset":
                messages = list(start)
                click.echo("forgotten", err=True)
                continue
            case "/help":
                click.echo(_HELP, err=True)
                continue
        text = QUESTION.format(context=files.render(), question=line) if files and not messages else line
        messages.append({"role": "user", "content": text})
        try:
            answer = show_answer(llm, llm.encode_chat(messages), params)
        except InputError as error:
            messages.pop()
            click.echo(f"{error}; /reset starts anew", err=True)
            continue
        messages.append({"role": "assistant", "content": answer.text})
        if interactive:
            click.secho(summary(answer, llm), err=True, dim=True)


def _read_line(interactive: bool) -> str | None:
    """The next line without its end; None when there is none."""
    while True:
        try:
            return input("> " if interactive else "")
        except EOFError:
            return None
        except KeyboardInterrupt:
            click.echo(f"\n{_HELP}", err=True)
