"""`sparse_attention`: every backend against the reference, and the laws that tie it to dense attention."""

from __future__ import annotations

import pytest
import torch

from helpers.paged_case import CASES, FAST_BACKENDS, TOLERANCE, Case, Paged, build
from openm3.config import SparseConfig
from openm3.kernels.dense_attention import dense_attention
from openm3.kernels.paged import PagedBatch
from openm3.kernels.select_blocks import select_blocks
from openm3.kernels.sparse_attention import sparse_attention


def select(x: Paged, topk: int) -> torch.Tensor:
    sparse = SparseConfig(index_block_size=x.batch.page_size, index_topk_blocks=topk)
    return select_blocks(x.q_THD, x.k_cache, x.batch, sparse, num_groups=x.k_cache.shape[1], backend="reference")


@pytest.mark.parametrize("backend", FAST_BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference(case: Case, backend: str) -> None:
    x = build(case)
    blocks = select(x, topk=3)
    out = sparse_attention(x.q_THD, x.k_cache, x.v_cache, blocks, x.batch, backend=backend)
    expected = sparse_attention(x.q_THD, x.k_cache, x.v_cache, blocks, x.batch, backend="reference")
    assert out.dtype == case.dtype
    torch.testing.assert_close(out, expected, atol=TOLERANCE[case.dtype], rtol=0)


@pytest.mark.parametrize("backend", ["reference", *FAST_BACKENDS])
@pytest.mark.parametrize("queries", [1, 60])
def test_all_blocks_are_dense_and_few_are_not(queries: int, backend: str) -> None:
    x = build(Case(((queries, 200),)))
    dense = dense_attention(x.q_THD, x.k_cache, x.v_cache, x.batch, backend=backend)
    for topk, equal in ((13, True), (40, True), (12, False), (2, False)):
        out = sparse_attention(x.q_THD, x.k_cache, x.v_cache, select(x, topk), x.batch, backend=backend)
        assert (out - dense).abs().amax() < 1e-5 if equal else (out - dense)[-1].abs().amax() > 1e-3


@pytest.mark.parametrize("backend", FAST_BACKENDS)
def test_decode_is_the_last_row_of_prefill(backend: str) -> None:
    x = build(Case(((150, 150),)))
    blocks = select(x, topk=4)
    whole = sparse_attention(x.q_THD, x.k_cache, x.v_cache, blocks, x.batch, backend=backend)
    last = PagedBatch.build([1], [150], x.pages, x.batch.page_size)
    out = sparse_attention(x.q_THD[-1:], x.k_cache, x.v_cache, blocks[-1:], last, backend=backend)
    torch.testing.assert_close(out, whole[-1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", FAST_BACKENDS)
def test_where_pages_lie_changes_nothing(backend: str) -> None:
    x = build(Case(((20, 150), (1, 90))))
    blocks = select(x, topk=4)
    before = sparse_attention(x.q_THD, x.k_cache, x.v_cache, blocks, x.batch, backend=backend)
    order = torch.randperm(len(x.k_cache), generator=torch.Generator().manual_seed(1))
    moved = [[int((order == page).nonzero()) for page in pages] for pages in x.pages]
    batch = PagedBatch.build([20, 1], [150, 90], moved, x.batch.page_size)
    after = sparse_attention(x.q_THD, x.k_cache[order], x.v_cache[order], blocks, batch, backend=backend)
    assert torch.equal(before, after)


def test_errors_name_the_argument() -> None:
    x = build(Case(((4, 20),)))
    blocks = select(x, topk=2)
    with pytest.raises(ValueError, match="block_ids_TRN: expected"):
        sparse_attention(x.q_THD, x.k_cache, x.v_cache, blocks[:, :1], x.batch)
    with pytest.raises(ValueError, match="block_ids_TRN: expected int32"):
        sparse_attention(x.q_THD, x.k_cache, x.v_cache, blocks.long(), x.batch)
