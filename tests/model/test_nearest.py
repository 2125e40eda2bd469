"""`window_scores` against the same written out token by token."""

from __future__ import annotations

import pytest
import torch

from helpers.tiny import TINY
from helpers.tiny_m3 import tiny_m3_config
from openm3.config import ModelConfig
from openm3.model import nearest
from openm3.model.cache import KVCache
from openm3.model.nearest import WINDOW, Metric, layers_of, window_scores
from openm3.model.rope import inverse_frequencies, rotate_, rotation

PAGE = 16
MODELS = {"llama": ModelConfig.from_hf(TINY), "m3": ModelConfig.from_hf(tiny_m3_config())}


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("num_context", [5, 32, 64, 65, 300])
def test_equals_the_definition(model: str, metric: Metric, num_context: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the pages lie, and in however many parts the keys are read."""
    config = MODELS[model]
    inv_freq_E = inverse_frequencies(config)
    generator = torch.Generator().manual_seed(num_context)
    total, query = num_context + 9, range(num_context + 2, num_context + 9)
    cache = KVCache.allocate(config, 24, PAGE, torch.float32)
    pages = torch.randperm(24, generator=generator)[: -(-total // PAGE)].tolist()
    plain = {}
    for number in layers_of(cache):
        k_PRSD = cache.layers[number].k_PRSD.fill_(torch.nan)
        plain[number] = torch.randn(total, k_PRSD.shape[1], k_PRSD.shape[3], generator=generator)
        turned = rotate_(plain[number].clone(), rotation(inv_freq_E, torch.arange(total)))
        for position in range(total):
            k_PRSD[pages[position // PAGE], :, position % PAGE] = turned[position]
    expected = torch.stack([definition(keys, num_context, query, metric) for keys in plain.values()]).mean(0)
    for tokens_at_once in (8192, 64):
        monkeypatch.setattr(nearest, "_TOKENS_AT_ONCE", tokens_at_once)
        scores = window_scores(cache, pages, num_context, query, inv_freq_E, metric)
        torch.testing.assert_close(scores, expected, atol=1e-3, rtol=1e-3)


def definition(keys_NXC: torch.Tensor, num_context: int, query: range, metric: Metric) -> torch.Tensor:
    keys_NC = keys_NXC.flatten(1)
    if metric == "cosine":
        keys_NC = keys_NC / keys_NC.norm(dim=1, keepdim=True)
    starts = range(0, max(num_context - WINDOW // 2, 1), WINDOW // 2)
    best = torch.tensor(
        [
            [
                max(float(keys_NC[i] @ keys_NC[j]) for j in range(start, min(start + WINDOW, num_context)))
                for start in starts
            ]
            for i in query
        ]
    )
    score = ((best - best.mean(1, keepdim=True)).clamp(min=0) ** 2).mean(0)
    return score / score.max() if score.max() > 0 else score
