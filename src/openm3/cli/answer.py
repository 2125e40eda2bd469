"""Shows one answer as it comes: a bar while the prompt is read, the text on the standard output, then a summary."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from openm3.cli.progress import Progress

if TYPE_CHECKING:
    from openm3.engine.llm import LLM
    from openm3.engine.output import Completion, Delta
    from openm3.engine.params import SamplingParams

INTERRUPTED = 130  # exit code of a program that Ctrl-C ended


def show_answer(llm: LLM, prompt_ids: Sequence[int], params: SamplingParams, *, echo: bool = True) -> Completion:
    """Streams the answer to the standard output. Ctrl-C ends the answer, whose finish reason is then "cancelled".

    Args:
        llm: the model.
        prompt_ids: the prompt.
        params: how to sample.
        echo: write the text as it comes; without, only the bar is shown.
    """
    from openm3.engine.llm import completion
    from openm3.engine.output import Delta
    from openm3.engine.output import Progress as Read

    deltas: list[Delta] = []
    with _ctrl_c() as interrupted:
        request, events = llm.stream(prompt_ids, params)
        bar = Progress("reading", "tokens", len(prompt_ids))
        with bar:
            for event in events:
                if isinstance(event, Read):
                    bar.update(event.num_read)
                if isinstance(event, Delta):
                    deltas.append(event)
                    break
                if interrupted.is_set():
                    break
        if echo and deltas:
            click.echo(deltas[0].text, nl=False)
        for event in () if interrupted.is_set() else events:
            if isinstance(event, Delta):
                deltas.append(event)
                if echo:
                    click.echo(event.text, nl=False)
            if interrupted.is_set():
                break
        llm.engine.cancel(request)
    if echo:
        click.echo()
    return completion(request, deltas)


def summary(answer: Completion, llm: LLM) -> str:
    """One line: tokens read, time to the first token, speed, and the share of blocks read."""
    stats = answer.stats
    first_s = stats.queue_s + stats.read_s
    parts = [
        f"{stats.num_prompt:,} tokens read in {first_s:.1f} s"
        + (f" ({stats.num_prompt / first_s:,.0f} tokens/s, to the first token)" if first_s else "")
        + (f", {stats.num_cached:,} of them known from before" if stats.num_cached else ""),
        f"{stats.num_generated} tokens answered"
        + (f" at {(stats.num_generated - 1) / stats.decode_s:.1f} tokens/s" if stats.decode_s > 0 else ""),
    ]
    if stats.blocks_visible:
        share = stats.blocks_read / stats.blocks_visible
        parts.append(f"{share:.0%} of blocks read ({llm.config.attention}, {llm.engine.runner.backend} kernels)")
    if answer.finish_reason != "stop":
        parts.append({"length": "cut at the token limit", "cancelled": "interrupted"}[answer.finish_reason])
    return " · ".join(parts)


@contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """While inside, Ctrl-C sets the event instead of raising; a second one raises, should the first not get through."""
    pressed = threading.Event()

    def handler(*_: object) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    if threading.current_thread() is not threading.main_thread():
        yield pressed  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
