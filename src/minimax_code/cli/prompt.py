"""Asks the user at the terminal."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

import click

from minimax_code.permissions import Answer, Asker, Question
from minimax_code.phrases import line_of


def asker(aside: Callable[[], AbstractContextManager[None]]) -> Asker:
    """Asks one question at a time.

    Args:
        aside: keeps what else is shown away while a question stands there.
    """
    turn = asyncio.Lock()

    async def ask(question: Question) -> Answer:
        async with turn:
            with aside():
                click.echo(f"\n{question.agent} wants to call {question.tool}:")
                for line in question.subject.splitlines()[:40] or [""]:
                    click.echo(f"    {line_of(line)}")
                while True:
                    click.echo(f"[y]es, [n]o, or [a]lways: {line_of(question.rule)}  ", nl=False)
                    match (await _line()).strip().lower():
                        case "y" | "yes":
                            return Answer(allowed=True)
                        case "a" | "always":
                            return Answer(allowed=True, rule=question.rule)
                        case "n" | "no":
                            return Answer(allowed=False)

    return ask


async def _line() -> str:
    """A line of the standard input, read so that Ctrl-C ends the waiting.

    Raises:
        click.Abort: the input has ended.
    """
    loop, read = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, read.set)
    try:
        await read.wait()
    finally:
        loop.remove_reader(sys.stdin)
    line = sys.stdin.readline()
    if not line:
        raise click.Abort
    return line
