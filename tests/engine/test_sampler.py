"""The sampler: what each option keeps, and that randomness follows from seed and place alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from openm3.engine.params import SamplingParams
from openm3.engine.request import Request
from openm3.engine.sampler import candidates, index_at, penalised, sample
from openm3.errors import InputError

LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0, 4.0])


def request(prompt: Sequence[int] = (0,), output: Sequence[int] = (), **params: Any) -> Request:
    return Request("r", prompt, SamplingParams(**{"seed": 7, **params}), 10, output_ids=list(output))


def one(of: Request, logits: torch.Tensor = LOGITS) -> int:
    return sample(logits, of, lambda _: b"").token_id


def distribution(logits: torch.Tensor, params: SamplingParams) -> tuple[torch.Tensor, list[int]]:
    """The obvious way: sort everything, cut, and make it a distribution again."""
    probs, ids = (logits.double() / params.temperature).softmax(-1).sort(descending=True, stable=True)
    if params.top_k:
        probs, ids = probs[: params.top_k] / probs[: params.top_k].sum(), ids[: params.top_k]
    keep = (probs.cumsum(0) - probs < params.top_p) | (torch.arange(len(probs)) == 0) | torch.tensor(params.top_p == 1)
    keep &= probs >= params.min_p * probs[0]
    return probs[keep] / probs[keep].sum(), ids[keep].tolist()


def test_greedy_takes_the_likeliest() -> None:
    assert one(request()) == 4
    assert one(request(temperature=1.0, top_k=1)) == 4
    assert one(request(temperature=1e-4)) == 4


def test_frequencies_follow_the_distribution() -> None:
    probs = LOGITS.softmax(-1)
    counts = Counter(one(request(output=[0] * place, temperature=1.0)) for place in range(4000))
    for token, probability in enumerate(probs.tolist()):
        assert abs(counts[token] / 4000 - probability) < 4 * (probability / 4000) ** 0.5 + 1e-3


def test_the_same_seed_and_place_give_the_same_token_in_any_company() -> None:
    mine = request(temperature=1.0, seed=3)
    rows = torch.randn(5, 50)
    alone = one(mine, rows[2])
    others = [request(temperature=1.0, seed=i) for i in range(5)]
    others[2] = mine
    assert [one(each, row) for each, row in zip(others, rows, strict=True)][2] == alone
    draws = {one(request(temperature=5.0, seed=seed), rows[0]) for seed in range(40)}
    assert len(draws) > 5


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"top_k": 2}, {4, 0}),
        ({"top_p": 0.5}, {4}),
        ({"top_p": 0.9}, {4, 0}),
        ({"top_p": 0.0}, {4}),
        ({"min_p": 0.1}, {4, 0}),
        ({"min_p": 1.0}, {4}),
        ({"top_k": 3, "top_p": 0.99, "min_p": 0.05}, {4, 0}),
    ],
)
def test_what_is_kept(params: dict[str, Any], kept: set[int]) -> None:
    options = SamplingParams(temperature=1.0, **params)
    assert set(distribution(LOGITS, options)[1]) == kept
    _, ids = candidates(LOGITS.numpy(), options)
    assert set(range(5) if ids is None else ids.tolist()) == kept


@pytest.mark.parametrize("scale", [0.0, 0.3, 3.0, 9.0])
@pytest.mark.parametrize(
    "params",
    [{"top_k": 40}, {"top_p": 0.95}, {"top_p": 0.3}, {"min_p": 0.02}, {"min_p": 1e-7}, {"top_k": 3000, "top_p": 0.9},
     {"top_p": 0.99, "min_p": 0.001}, {"top_k": 7, "min_p": 0.5}, {"top_p": 0.999999}],
)  # fmt: skip
def test_candidates_are_those_of_the_obvious_way(params: dict[str, Any], scale: float) -> None:
    generator = torch.Generator().manual_seed(5)
    logits = scale * torch.randn(20_000, generator=generator)
    logits[::9] = float("-inf")  # as a grammar leaves them
    options = SamplingParams(temperature=0.7, **params)
    probs, expected = distribution(logits, options)
    weights, ids = candidates(logits.numpy(), options)
    assert ids is not None
    # The last few of many thousands depend on how sums round, and so does the order of two that are nearly alike.
    assert abs(len(ids) - len(expected)) <= len(expected) // 1000
    common = min(len(ids), len(expected))
    assert ids.tolist()[:20] == expected[:20]
    torch.testing.assert_close(logits[ids[:common].copy()], logits[expected[:common]], rtol=1e-4, atol=1e-4)
    shares = torch.from_numpy(weights[:common] / weights.sum(dtype=np.float64))
    torch.testing.assert_close(shares, probs[:common], rtol=2e-3, atol=1e-9)


def test_a_draw_takes_the_token_at_its_share_of_the_whole() -> None:
    logits = 4 * torch.randn(5000, generator=torch.Generator().manual_seed(2))
    logits[torch.arange(5000) % 3 == 0] = float("-inf")
    sums = logits.double().softmax(-1).cumsum(0)
    for place in range(300):
        share = place / 300
        expected = int(torch.searchsorted(sums, share, right=True))
        token = index_at(logits.softmax(-1).numpy(), share)
        assert token == expected or abs(float(sums[min(token, expected)]) - share) < 1e-6
        assert token % 3, "it can't occur"


def test_temperature_divides_logits() -> None:
    weights, ids = candidates(LOGITS.numpy(), SamplingParams(temperature=2.0))
    assert ids is None
    torch.testing.assert_close(torch.from_numpy(weights / weights.sum()), (LOGITS / 2).softmax(-1))


def test_penalties() -> None:
    of = request([0, 3], [1, 1], repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25)
    # 0 and 3 are in the prompt: repetition only; 1 was generated twice: 1/2 - 0.5 - 2 * 0.25
    assert penalised(LOGITS.numpy(), of).tolist() == [1.0, -0.5, 0.5, -2.0, 4.0]
    assert LOGITS[1] == 1.0, "the model's own logits stay"
    assert one(request(output=[4, 4], frequency_penalty=2.0)) == 0, "greedy heeds penalties too"


def test_logprobs_are_the_models_own() -> None:
    of = request(output=[4], temperature=3.0, frequency_penalty=2.0, top_k=1, logprobs=2)
    sampled = sample(LOGITS, of, lambda token: bytes([65 + token]))
    expected = LOGITS.log_softmax(-1)
    assert sampled.logprob is not None
    assert sampled.logprob.logprob == pytest.approx(expected[sampled.token_id].item())
    assert [(top.token_id, top.token) for top in sampled.logprob.top] == [(4, b"E"), (0, b"A")]
    assert sampled.logprob.top[0].logprob == pytest.approx(expected[4].item())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 1.5),
        ("top_k", -1),
        ("min_p", 2.0),
        ("repetition_penalty", 0.0),
        ("presence_penalty", 3.0),
        ("frequency_penalty", -3.0),
        ("seed", 2**64),
        ("stop", ("",)),
        ("logprobs", 21),
    ],
)
def test_wrong_parameters_are_named(field: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        SamplingParams(**{field: value})
    assert caught.value.field == field
