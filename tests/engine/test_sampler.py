"""The sampler: what each option keeps, and that randomness follows from seed and place alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from openm3.engine.params import SamplingParams
from openm3.engine.request import Request
from openm3.engine.sampler import distribution, penalised, sample
from openm3.errors import InputError

LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0, 4.0])


def request(prompt: Sequence[int] = (0,), output: Sequence[int] = (), **params: Any) -> Request:
    return Request("r", prompt, SamplingParams(**{"seed": 7, **params}), 10, output_ids=list(output))


def one(of: Request, logits: torch.Tensor = LOGITS) -> int:
    return sample(logits, of, lambda _: b"").token_id


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
    probs, ids = distribution(LOGITS, SamplingParams(temperature=1.0, **params))
    assert set(ids.tolist()) == kept
    assert probs.sum().item() == pytest.approx(1.0)


def test_temperature_divides_logits() -> None:
    probs, ids = distribution(LOGITS, SamplingParams(temperature=2.0))
    torch.testing.assert_close(probs, (LOGITS / 2).softmax(-1))
    assert ids.tolist() == [0, 1, 2, 3, 4]


def test_penalties() -> None:
    of = request([0, 3], [1, 1], repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25)
    # 0 and 3 are in the prompt: repetition only; 1 was generated twice: 1/2 - 0.5 - 2 * 0.25
    torch.testing.assert_close(penalised(LOGITS, of), torch.tensor([1.0, -0.5, 0.5, -2.0, 4.0]))
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
