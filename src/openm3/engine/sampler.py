"""Chooses the next token of a request. Letters: V vocabulary, N tokens that are left to choose from.

Nothing is kept between steps: the random number of a token follows from the request's seed and the token's place in
the answer, so the same seed gives the same text whatever runs beside it, and also after a preemption.

It runs once for each token of each request, on one thread, between two steps of the network. So it is NumPy, which
starts no threads for 100,000 numbers, and nothing sorts or adds up a whole vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from openm3.engine.output import TokenLogprob
from openm3.engine.params import SamplingParams
from openm3.engine.request import Request

Floats = NDArray[np.float32]
_RUN = 256  # numbers that are added up at once in search of a draw


@dataclass(frozen=True)
class Sampled:
    """A chosen token, with its log probability where the request asked for it."""

    token_id: int
    logprob: TokenLogprob | None = None


def sample(logits_V: Tensor, request: Request, token_bytes: Callable[[int], bytes]) -> Sampled:
    """A request's next token.

    Args:
        logits_V: fp32.
        request: its answer so far is what penalties and the random number follow from.
        token_bytes: the bytes of a token, for log probabilities.
    """
    token_id = _sample(logits_V.numpy(), request)
    if request.params.logprobs is None:
        return Sampled(token_id)
    return Sampled(token_id, _logprob(logits_V, token_id, request.params.logprobs, token_bytes))


def candidates(logits_V: Floats, params: SamplingParams) -> tuple[Floats, NDArray[np.int64] | None]:
    """What is left of a row of (penalised) logits after temperature, top-k, top-p and min-p, in this order.

    Returns:
        fp32 weights `[N]`, in proportion to the tokens' probabilities, and their ids, likeliest first. When nothing is
        cut these are the weights of all, by id, and None.
    """
    with np.errstate(over="ignore"):  # a low temperature leaves one token
        weights_V = np.exp((logits_V - logits_V.max()) / np.float32(params.temperature))
    if not params.top_k and params.top_p == 1 and params.min_p == 0:
        return weights_V, None
    ids_N = _likeliest(weights_V, params)
    weights_N = weights_V[ids_N]
    sums_N = weights_N.cumsum(dtype=np.float64)
    whole = sums_N[-1] if params.top_k else weights_V.sum(dtype=np.float64)
    keep_N = weights_N >= params.min_p * weights_N[0]
    keep_N[1:] &= sums_N[:-1] < params.top_p * whole  # mass of the likelier tokens: the first always stays
    return weights_N[keep_N], ids_N[keep_N]


def _likeliest(weights_V: Floats, params: SamplingParams) -> NDArray[np.int64]:
    """The ids of the likeliest tokens, in order and no more than top-k, at least those that are not cut."""
    threshold, whole = 1e-2, weights_V.sum(dtype=np.float64)
    while True:
        ids_N = np.flatnonzero(weights_V >= threshold)
        if params.top_k:
            is_enough = len(ids_N) >= params.top_k
        elif params.top_p < 1:
            is_enough = weights_V[ids_N].sum(dtype=np.float64) >= params.top_p * whole
        else:
            is_enough = threshold <= params.min_p
        if is_enough or threshold == 0:
            order_N = np.argsort(-weights_V[ids_N], kind="stable")
            return ids_N[order_N[: params.top_k or None]]
        threshold = threshold / 10 if threshold > 1e-9 else 0.0


def penalised(logits_V: Floats, request: Request) -> Floats:
    """Logits after repetition, presence and frequency penalties, and biases."""
    params, logits_V = request.params, logits_V.copy()
    generated, counts = np.unique(np.asarray(request.output_ids, np.int64), return_counts=True)
    if params.repetition_penalty != 1:
        seen = np.union1d(request.prompt_vocabulary, generated)
        logits, penalty = logits_V[seen], np.float32(params.repetition_penalty)
        logits_V[seen] = np.where(logits > 0, logits / penalty, logits * penalty)
    logits_V[generated] -= np.float32(params.presence_penalty) + np.float32(params.frequency_penalty) * counts
    for token_id, bias in params.logit_bias:
        logits_V[token_id] += bias
    return logits_V


def _sample(logits_V: Floats, request: Request) -> int:
    params = request.params
    if params.has_penalties:
        logits_V = penalised(logits_V, request)
    if request.matcher is not None:
        logits_V = np.where(request.matcher.allowed(), logits_V, np.float32("-inf"))
    if params.temperature == 0:
        return int(logits_V.argmax())
    weights_N, ids_N = candidates(logits_V, params)
    index = index_at(weights_N, _random(params.seed, len(request.output_ids)))
    return index if ids_N is None else int(ids_N[index])


def _random(seed: int | None, place: int) -> float:
    """From 0 to 1, exclusive; the same for the same seed and place."""
    digest = hashlib.blake2b(f"{seed}:{place}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def index_at(weights_N: Floats, share: float) -> int:
    """The place at which the running sum of weights passes a share (0 to 1, exclusive) of the whole.

    Runs of numbers are summed before the one is searched that it is in. What is taken has a weight above 0.
    """
    run_sums = np.add.reduceat(weights_N, np.arange(0, len(weights_N), _RUN))
    bounds = run_sums.cumsum(dtype=np.float64)
    point = min(share * bounds[-1], np.nextafter(bounds[-1], 0))
    run = int(bounds.searchsorted(point, side="right"))
    own = weights_N[run * _RUN : (run + 1) * _RUN]
    sums = own.cumsum(dtype=np.float64)
    place = int(sums.searchsorted(point - (bounds[run] - run_sums[run]), side="right"))
    # Sums in two ways may differ in the last bits, and then the point lies behind the run.
    return run * _RUN + min(place, int(own.nonzero()[0][-1]))


def _logprob(logits_V: Tensor, token_id: int, num_top: int, token_bytes: Callable[[int], bytes]) -> TokenLogprob:
    logprobs_V = logits_V.log_softmax(-1)
    values, ids = logprobs_V.topk(num_top)
    top = tuple(
        TokenLogprob(id_, token_bytes(id_), value) for id_, value in zip(ids.tolist(), values.tolist(), strict=True)
    )
    return TokenLogprob(token_id, token_bytes(token_id), float(logprobs_V[token_id]), top)
