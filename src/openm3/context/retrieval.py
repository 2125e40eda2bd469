"""The parts of a context that are nearest to a text, by the keys of what the model has read. Nothing is generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import torch

from openm3.context.sources import SourceSpan
from openm3.engine.output import Delta, Progress
from openm3.engine.params import SamplingParams
from openm3.engine.prompt import Prompt
from openm3.errors import InputError
from openm3.model.nearest import WINDOW, Metric, window_scores

if TYPE_CHECKING:
    from openm3.engine.llm import LLM
    from openm3.engine.request import Request

DEFAULT_TOKENS = 1024
METRICS: tuple[str, ...] = get_args(Metric)

_BEFORE = "\n\n"  # what stands between the context and the query
_HELD = 2  # tokens to ask for, so that the pages are still held once all is read


@dataclass(frozen=True)
class Found:
    """A part of a context that is near to a query.

    Attributes:
        start, stop: tokens `start` to `stop - 1` of the context.
        score: from 0 to 1, the nearest part's being the highest; one query's scores don't compare with another's.
        sources: its files and lines, in order; empty where nobody has said what the context's tokens come from.
        text: what it is.
    """

    start: int
    stop: int
    score: float
    sources: tuple[SourceSpan, ...]
    text: str


def retrieve(
    llm: LLM,
    context: Prompt,
    query: str,
    k: int = DEFAULT_TOKENS,
    *,
    metric: Metric = "cosine",
    on_read: Callable[[int, int], object] | None = None,
) -> list[Found]:
    """The `k` tokens of a context nearest to a text, as spans, the nearest first.

    The query is read behind the context, as its continuation, and the keys of its tokens are compared with those of the
    context: the model's own keys, also where it has an index branch. What is known of the context from before is not
    read again, so a second query costs its own few tokens and one pass over the keys of a few layers.

    Args:
        llm: the model.
        context: what is searched; with `sources` the spans have files and lines.
        query: a question, a description, a piece of text.
        k: tokens to find.
        metric: "cosine" compares the directions of keys, "dot" their lengths too.
        on_read: called with the tokens read so far and those to read.

    Raises:
        InputError: an empty query or context, a `k` that is not from 1 to the context's length, an unknown metric, or
            context and query are more than the window.
    """
    num_context = context.num_left
    if not query.strip():
        raise InputError("query", "is empty")
    if not num_context:
        raise InputError("context", "is empty")
    if not 1 <= k <= num_context:
        raise InputError("k", f"must be from 1 to the {num_context} tokens of the context, got {k}")
    if metric not in METRICS:
        raise InputError("metric", f"must be {' or '.join(map(repr, METRICS))}, got {metric!r}")
    behind = [*llm.tokenizer.encode(_BEFORE), *llm.tokenizer.encode(query)]
    num_before = len(llm.tokenizer.encode(_BEFORE))
    room = llm.max_context - _HELD - num_context - len(behind)
    if room < 0 and llm.config.overflow == "refuse":
        raise InputError("query", f"with the context it is {-room} tokens more than the window of {llm.max_context}")
    asked = Prompt([*context.ids, *behind], context.media, context.places, tail=len(behind), dropped=context.dropped)
    request, events = llm.stream(asked, SamplingParams(max_tokens=_HELD, ignore_eos=True))
    try:
        for event in events:
            if isinstance(event, Progress) and on_read is not None:
                on_read(event.num_read, event.num_prompt)
            if isinstance(event, Delta):
                break
        start, stop = request.tail_positions
        score_w = _scores(llm, request, start, range(start + num_before, stop), metric)
        spans = [
            (piece, score)
            for first, last, score in nearest(score_w, start, k)
            for piece in request.holes.pieces(first, last)
        ]
    finally:
        llm.engine.cancel(request)
    return [_found(llm, context, piece.start, piece.stop, score) for piece, score in spans]


@torch.inference_mode()
def _scores(llm: LLM, request: Request, num_context: int, query: range, metric: Metric) -> list[float]:
    runner = llm.engine.runner
    scores_w = window_scores(runner.cache, request.pages, num_context, query, runner.decoder.inv_freq_E, metric)
    values: list[float] = scores_w.tolist()
    return values


def nearest(scores: Sequence[float], num_tokens: int, k: int) -> list[tuple[int, int, float]]:
    """The spans `(start, stop, score)` of the best windows that together are `k` tokens, the best first.

    Windows that overlap or touch are one span, with the score of the best of them. The last window is cut to fit.
    """
    half, taken = WINDOW // 2, dict[int, tuple[int, float]]()  # by half window: tokens, score
    for window in sorted(range(len(scores)), key=lambda i: -scores[i]):
        for i in (window, window + 1):
            length = min(half, num_tokens - i * half, k)
            if i not in taken and length > 0:
                taken[i] = length, scores[window]
                k -= length
    spans: list[tuple[int, int, float]] = []
    for i in sorted(taken):
        (length, score), start = taken[i], i * half
        if spans and spans[-1][1] == start:
            spans[-1] = spans[-1][0], start + length, max(spans[-1][2], score)
        else:
            spans.append((start, start + length, score))
    return sorted(spans, key=lambda span: -span[2])


def _found(llm: LLM, context: Prompt, start: int, stop: int, score: float) -> Found:
    sources = () if context.sources is None else tuple(context.sources.locate(start, stop))
    return Found(start, stop, score, sources, llm.tokenizer.decode(context.ids[start:stop]))
