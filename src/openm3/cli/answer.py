"""Shows one answer as it comes: a bar while the prompt is read, then the text on the standard output.

What the model thinks before it answers goes to the standard error, dimmed where that is a terminal.
"""

from __future__ import annotations

import signal
import textwrap
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from openm3.cli.progress import Progress

if TYPE_CHECKING:
    from openm3.engine.llm import LLM
    from openm3.engine.output import Completion, Delta
    from openm3.engine.params import SamplingParams
    from openm3.engine.prompt import Prompt
    from openm3.text.parse import Part

_PLACES_SHOWN = 5
_SENTENCE_SHOWN = 80  # characters
INTERRUPTED = 130  # exit code of a program that Ctrl-C ended


def show_answer(llm: LLM, prompt: Prompt | Sequence[int], params: SamplingParams, *, echo: bool = True) -> Completion:
    """Streams the answer to the standard output. Ctrl-C ends the answer, whose finish reason is then "cancelled".

    Args:
        llm: the model.
        prompt: a conversation's, whose answer is shown without its markers, or plain tokens.
        params: how to sample.
        echo: write the text as it comes; without, only the bar is shown.
    """
    from openm3.engine.llm import completion
    from openm3.engine.output import Delta
    from openm3.engine.output import Progress as Read
    from openm3.engine.prompt import Prompt
    from openm3.text.parse import Answer

    deltas: list[Delta] = []
    parts: list[Part] = []
    parser = prompt.parser() if isinstance(prompt, Prompt) else None
    screen = _Screen(echo)

    def take(delta: Delta) -> None:
        deltas.append(delta)
        new = parser.push(delta.text) if parser else [Answer(delta.text)]
        screen.show(new)
        parts.extend(new)

    with ctrl_c() as interrupted:
        request, events = llm.stream(prompt, params)
        bar = Progress("reading", "tokens", len(request.prompt_ids))
        first: Delta | None = None
        with bar:
            for event in events:
                if isinstance(event, Read):
                    bar.update(event.num_read)
                if isinstance(event, Delta):
                    first = event
                    break
                if interrupted.is_set():
                    break
        if first is not None:
            take(first)
        for event in () if interrupted.is_set() else events:
            if isinstance(event, Delta):
                take(event)
            if interrupted.is_set():
                break
        llm.engine.cancel(request)
    rest = parser.finish() if parser else []
    screen.show(rest)
    screen.end()
    answer = completion(request, deltas, [*parts, *rest])
    if answer.dropped:
        click.echo(_dropped(answer), err=True)
    return answer


def references(answer: Completion) -> list[str]:
    """What the answer was read from: each sentence with the numbers of its references, then these with their lines."""
    if answer.evidence is None:
        return []
    found = answer.evidence.references()
    if not found:
        return ["no part of the prompt stands out among what was read"]
    number = {reference.start: i for i, reference in enumerate(found, start=1)}
    lines = []
    for sentence in answer.evidence.sentences:
        if sentence.references:
            marks = "".join(f"[{number[reference.start]}]" for reference in sentence.references)
            lines.append(f"{textwrap.shorten(sentence.text, _SENTENCE_SHOWN)} {marks}")
    return lines + [f"[{number[each.start]}] {each} ({each.weight:.0%})" for each in found]


def _dropped(answer: Completion) -> str:
    """What compactions have dropped, in one line."""
    lines: dict[str, list[str]] = {}
    for source in (source for span in answer.dropped for source in span.sources if source.path):
        lines.setdefault(str(source.path), []).append(f"{source.first_line}-{source.last_line}")
    places = [f"{path}:{','.join(ranges)}" for path, ranges in lines.items()]
    if len(places) > _PLACES_SHOWN:
        places[_PLACES_SHOWN:] = [f"and of {len(places) - _PLACES_SHOWN} more files"]
    what = f"dropped {answer.stats.num_dropped:,} tokens to stay within the window"
    return f"{what}: {', '.join(places)}" if places else what


class _Screen:
    """Writes the parts of an answer where they belong."""

    def __init__(self, echo: bool) -> None:
        self._echo = echo
        self._thinks = False  # thinking was written and its line is open

    def show(self, parts: Iterable[Part]) -> None:
        from openm3.text.parse import Answer, Thinking

        for part in parts if self._echo else ():
            if isinstance(part, Thinking):
                click.secho(part.text, err=True, nl=False, dim=True)
                self._thinks = True
            elif isinstance(part, Answer) and part.text:
                self._end_thinking()
                click.echo(part.text, nl=False)

    def end(self) -> None:
        if self._echo:
            self._end_thinking()
            click.echo()

    def _end_thinking(self) -> None:
        if self._thinks:
            click.echo("\n", err=True)
            self._thinks = False


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
        runner = llm.engine.runner
        own = "" if stats.topk is None else f", {stats.topk} by each token of the answer"
        how = f"{llm.config.attention}, {runner.backend} kernels, {runner.weights} weights"
        parts.append(f"{share:.0%} of blocks read{own} ({how})")
    if stats.num_drafted:
        parts.append(f"{stats.num_accepted} of {stats.num_drafted} drafted tokens were right")
    if answer.finish_reason != "stop":
        parts.append({"length": "cut at the token limit", "cancelled": "interrupted"}[answer.finish_reason])
    return " · ".join(parts)


@contextmanager
def ctrl_c(message: str = "") -> Iterator[threading.Event]:
    """While inside, Ctrl-C sets the event instead of raising; a second one raises, should the first not get through.

    The message is shown at the first one.
    """
    pressed = threading.Event()

    def handler(*_: object) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()
        if message:
            click.echo(message, err=True)

    if threading.current_thread() is not threading.main_thread():
        yield pressed  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
