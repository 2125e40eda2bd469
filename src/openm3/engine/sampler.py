"""Chooses the next token of a request. Letters: V vocabulary, N tokens that are left to choose from.

Nothing is kept between steps: the random number of a token follows from the request's seed and the token's place in
the answer, so the same seed gives the same text whatever runs beside it, and also after a preemption.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from openm3.engine.output import TokenLogprob
from openm3.engine.params import SamplingParams
from openm3.engine.request import Request


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
    token_id = _sample(logits_V, request)
    if request.params.logprobs is None:
        return Sampled(token_id)
    return Sampled(token_id, _logprob(logits_V, token_id, request.params.logprobs, token_bytes))


def distribution(logits_V: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """What is left of a row of (penalised) logits after temperature, top-k, top-p and min-p, in this order.

    Returns:
        fp32 probabilities `[N]` that sum to 1, likeliest first when anything was cut, and their int64 token ids.
    """
    probs_N, ids_N = (logits_V / params.temperature).softmax(-1), torch.arange(len(logits_V))
    if params.top_k or params.top_p < 1 or params.min_p > 0:
        probs_N, ids_N = probs_N.topk(min(params.top_k or len(logits_V), len(logits_V)))
        probs_N = probs_N / probs_N.sum()
        before_N = probs_N.cumsum(0) - probs_N  # mass of the likelier tokens: the first always stays
        keep_N = (before_N < params.top_p) | (torch.arange(len(probs_N)) == 0)
        keep_N &= probs_N >= params.min_p * probs_N[0]
        probs_N, ids_N = probs_N[keep_N] / probs_N[keep_N].sum(), ids_N[keep_N]
    return probs_N, ids_N


def penalised(logits_V: Tensor, request: Request) -> Tensor:
    """Logits after repetition, presence and frequency penalties, and biases."""
    params, num_tokens = request.params, len(logits_V)
    generated_V = torch.bincount(torch.tensor(request.output_ids, dtype=torch.long), minlength=num_tokens)
    seen_V = generated_V + torch.bincount(torch.tensor(request.prompt_ids, dtype=torch.long), minlength=num_tokens)
    repeated_V = torch.where(logits_V > 0, logits_V / params.repetition_penalty, logits_V * params.repetition_penalty)
    logits_V = torch.where(seen_V > 0, repeated_V, logits_V)
    logits_V = logits_V - params.presence_penalty * (generated_V > 0) - params.frequency_penalty * generated_V
    for token_id, bias in params.logit_bias:
        logits_V[token_id] += bias
    return logits_V


def _sample(logits_V: Tensor, request: Request) -> int:
    params = request.params
    if params.has_penalties:
        logits_V = penalised(logits_V, request)
    if request.matcher is not None:
        logits_V = logits_V.masked_fill(~torch.from_numpy(request.matcher.allowed()), float("-inf"))
    if params.temperature == 0:
        return int(logits_V.argmax())
    probs_N, ids_N = distribution(logits_V, params)
    # Where the sum ends below the draw the last one is taken: it has to be one that can occur.
    probs_N, ids_N = probs_N[probs_N > 0], ids_N[probs_N > 0]
    draw = random.Random(f"{params.seed}:{len(request.output_ids)}").random()
    index = int(torch.searchsorted(probs_N.double().cumsum(0), draw, right=True))
    return int(ids_N[min(index, len(ids_N) - 1)])  # rounding may leave the sum a little below 1


def _logprob(logits_V: Tensor, token_id: int, num_top: int, token_bytes: Callable[[int], bytes]) -> TokenLogprob:
    logprobs_V = logits_V.log_softmax(-1)
    values, ids = logprobs_V.topk(num_top)
    top = tuple(
        TokenLogprob(id_, token_bytes(id_), value) for id_, value in zip(ids.tolist(), values.tolist(), strict=True)
    )
    return TokenLogprob(token_id, token_bytes(token_id), float(logprobs_V[token_id]), top)
