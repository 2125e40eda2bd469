"""`write_cache`: keys, values and index keys land in their places and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from helpers.paged_case import FAST_BACKENDS, Case, build, poisoned
from openm3.kernels.write_cache import write_cache


@pytest.mark.parametrize("backend", FAST_BACKENDS)
def test_equals_the_reference(backend: str) -> None:
    case = Case(((5, 21), (1, 1), (40, 200), (1, 77)), dtype=torch.bfloat16)
    x = build(case)
    new_k = torch.randn(x.batch.num_tokens, 2, 32).bfloat16()
    new_v = torch.randn(x.batch.num_tokens, 4, 32).bfloat16()[:, ::2]  # strided
    ours, expected = ([poisoned(case, len(x.k_cache)) for _ in range(2)] for _ in range(2))
    write_cache([new_k, new_v], ours, x.batch, backend=backend)
    write_cache([new_k, new_v], expected, x.batch, backend="reference")
    for cache, other in zip(ours, expected, strict=True):
        assert torch.equal(cache.isnan(), other.isnan()), "slots without a new token are left alone"
        assert torch.equal(cache.nan_to_num(), other.nan_to_num())


def test_chunks_fill_the_cache_like_one_write() -> None:
    x = build(Case(((21, 21),)))
    cache = torch.zeros_like(x.k_cache)
    write_cache([x.k_LRD], [cache], x.batch)
    assert torch.equal(cache, x.k_cache.nan_to_num())


def test_errors_name_the_argument() -> None:
    x = build(Case(((4, 20),)))
    with pytest.raises(ValueError, match="new_THD: expected one tensor for each of 2 caches, got 1"):
        write_cache([x.k_LRD[:4]], [x.k_cache, x.v_cache], x.batch)
    with pytest.raises(ValueError, match=r"new_THD\[0\]: expected"):
        write_cache([x.k_LRD[:5]], [x.k_cache], x.batch)
