"""`dense_attention`: every backend against the reference, and the reference against torch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from helpers.paged_case import CASES, FAST_BACKENDS, TOLERANCE, Case, build
from openm3.kernels.dense_attention import dense_attention
from openm3.kernels.paged import PagedBatch


@pytest.mark.parametrize("backend", FAST_BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference(case: Case, backend: str) -> None:
    x = build(case)
    out = dense_attention(x.q_THD, x.k_cache, x.v_cache, x.batch, backend=backend)
    expected = dense_attention(x.q_THD, x.k_cache, x.v_cache, x.batch, backend="reference")
    assert out.dtype == case.dtype
    torch.testing.assert_close(out, expected, atol=TOLERANCE[case.dtype], rtol=0)


def test_reference_is_torchs_attention() -> None:
    x = build(Case(((70, 70),)))
    q, k, v = (t.transpose(0, 1)[None] for t in (x.q_THD, x.k_LRD, x.v_LRD))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    out = dense_attention(x.q_THD, x.k_cache, x.v_cache, x.batch, backend="reference")
    torch.testing.assert_close(out, expected[0].transpose(0, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", FAST_BACKENDS)
def test_chunks_and_decode_equal_the_whole(backend: str) -> None:
    x = build(Case(((200, 200),)))
    whole = dense_attention(x.q_THD, x.k_cache, x.v_cache, x.batch, backend=backend)
    for start, stop in ((0, 37), (37, 48), (48, 160), (160, 199), (199, 200)):
        part = PagedBatch.build([stop - start], [stop], x.pages, x.batch.page_size)
        chunk = dense_attention(x.q_THD[start:stop], x.k_cache, x.v_cache, part, backend=backend)
        torch.testing.assert_close(chunk, whole[start:stop], atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", FAST_BACKENDS)
def test_strided_queries(backend: str) -> None:
    x = build(Case(((9, 50), (1, 33))))
    wide = torch.cat([x.q_THD, torch.full_like(x.q_THD, torch.nan)], dim=1)
    out = dense_attention(wide[:, : x.q_THD.shape[1]], x.k_cache, x.v_cache, x.batch, backend=backend)
    torch.testing.assert_close(out, dense_attention(x.q_THD, x.k_cache, x.v_cache, x.batch, backend=backend))


@pytest.mark.parametrize("backend", FAST_BACKENDS)
def test_a_sequence_gives_the_same_bits_alone_and_in_a_crowd(backend: str) -> None:
    lens = ((1, 100), (7, 90), (1, 257), (30, 30))
    x = build(Case(lens, dtype=torch.bfloat16))
    crowd = dense_attention(x.q_THD, x.k_cache, x.v_cache, x.batch, backend=backend)
    start = 0
    for (queries, context), pages in zip(lens, x.pages, strict=True):
        alone = PagedBatch.build([queries], [context], [pages], x.batch.page_size)
        rows = slice(start, start + queries)
        out = dense_attention(x.q_THD[rows], x.k_cache, x.v_cache, alone, backend=backend)
        assert torch.equal(out, crowd[rows])
        start += queries


def test_errors_name_the_argument() -> None:
    x = build(Case(((4, 20),)))
    with pytest.raises(ValueError, match=r"q_THD: expected \[T, heads, size\] = \[4, any, any\], got \[3, 6, 32\]"):
        dense_attention(x.q_THD[:3], x.k_cache, x.v_cache, x.batch)
    with pytest.raises(ValueError, match="v_cache_PRSD: expected"):
        dense_attention(x.q_THD, x.k_cache, x.v_cache[:, :1], x.batch)
    with pytest.raises(ValueError, match="k_cache_PRSD: expected torch.float32"):
        dense_attention(x.q_THD, x.k_cache.bfloat16(), x.v_cache, x.batch)
    with pytest.raises(ValueError, match="q_THD: expected a multiple of the 2 heads"):
        dense_attention(x.q_THD[:, :5], x.k_cache, x.v_cache, x.batch)
    far = replace(x.batch, page_table_BP=x.batch.page_table_BP + 5)
    with pytest.raises(ValueError, match="page_table: page .* lies outside k_cache_PRSD"):
        dense_attention(x.q_THD, x.k_cache, x.v_cache, far)
