"""`clamped_attention`: every backend against the reference, and the laws that hold for all."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from helpers.paged_case import CASES, DEVICE, FAST_BACKENDS, TOLERANCE, Case, Paged, build, fill, on_device, poisoned
from openm3.config import SparseConfig
from openm3.kernels.backend import BACKENDS
from openm3.kernels.block_mass import WatchedRows
from openm3.kernels.clamped_attention import clamped_attention, clamped_mass, near_blocks
from openm3.kernels.dense_attention import dense_attention
from openm3.kernels.paged import PagedBatch
from openm3.kernels.select_blocks import select_blocks

WITH_TRITON = [*FAST_BACKENDS, *(["triton"] if "triton" in BACKENDS else [])]


def sparse(page_size: int, near: int = 2, far: int = 3) -> SparseConfig:
    return SparseConfig(
        index_block_size=page_size, index_topk_blocks=near + far, index_local_blocks=near, index_init_blocks=1
    )


def far_side(x: Paged, case: Case) -> tuple[Tensor, Tensor]:
    """Other queries and keys, of the same shapes and pages."""
    other = build(case, seed=1)
    cache = poisoned(case, len(x.k_cache))
    fill(cache, other.k_LRD, x.batch.context_len_B.tolist(), x.pages)
    return other.q_THD.to(x.q_THD.device), cache.to(x.k_cache.device)


def attend(x: Paged, far: tuple[Tensor, Tensor], config: SparseConfig, backend: str) -> Tensor:
    """What attention gives and the share of what is far, side by side."""
    (far_q, far_k), groups = far, x.k_cache.shape[1]
    block_ids = select_blocks(far_q, far_k, x.batch, config, num_groups=groups, backend=backend)
    near_ids = near_blocks(x.batch.positions_T, config.index_local_blocks, config.index_block_size).to(far_q.device)
    caches = (x.k_cache, far_k, x.v_cache)
    mixed, share = clamped_attention(x.q_THD, far_q, *caches, block_ids, near_ids, x.batch, backend=backend)
    return torch.cat((mixed.flatten(1).float(), share), 1)


@pytest.mark.parametrize("backend", WITH_TRITON)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference(case: Case, backend: str) -> None:
    x = build(case)
    far = far_side(x, case)
    expected = attend(x, far, sparse(case.page_size), "reference")
    if backend == "triton":
        x, far = on_device(x), (far[0].to(DEVICE), far[1].to(DEVICE))
    mixed = attend(x, far, sparse(case.page_size), backend).cpu()
    torch.testing.assert_close(mixed, expected, atol=TOLERANCE[case.dtype], rtol=0)


@pytest.mark.parametrize("backend", ["reference", *FAST_BACKENDS])
def test_what_is_far_counts_and_as_it_is_seen_from_far(backend: str) -> None:
    case = Case(((40, 200),))
    x = build(case)
    q, k = far_side(x, case)
    config = sparse(case.page_size)
    mixed = attend(x, (q, k), config, backend)
    k[x.pages[0][0]] += 1  # block 0, which is always among the far ones
    assert (attend(x, (q, k), config, backend) != mixed).any(-1).all()
    x.k_cache[x.pages[0][0]] = torch.nan  # nobody is near it
    assert not attend(x, (q, k), config, backend).isnan().any()


@pytest.mark.parametrize("backend", FAST_BACKENDS)
def test_up_to_the_near_blocks_it_is_dense_attention(backend: str) -> None:
    case = Case(((60, 200),), dtype=torch.bfloat16)
    x = build(case)
    far = far_side(x, case)
    far[1].fill_(torch.nan)
    mixed = attend(x, far, sparse(case.page_size, near=13), backend)
    dense = dense_attention(x.q_THD, x.k_cache, x.v_cache, x.batch, backend=backend)
    expected = torch.cat((dense.flatten(1).float(), torch.zeros(60, 6)), 1)  # nothing of it is far
    torch.testing.assert_close(mixed, expected, atol=TOLERANCE[case.dtype], rtol=0)


@pytest.mark.parametrize("backend", FAST_BACKENDS)
def test_rows_without_far_blocks_have_the_same_bits_beside_rows_with_some(backend: str) -> None:
    case = Case(((100, 100),), dtype=torch.bfloat16)
    x = build(case)
    far = far_side(x, case)
    mixed = attend(x, far, sparse(case.page_size), backend)
    all_near = attend(x, far, sparse(case.page_size, near=7), backend)
    assert torch.equal(mixed[:32], all_near[:32])
    assert not torch.equal(mixed[32:], all_near[32:])


@pytest.mark.parametrize("backend", FAST_BACKENDS)
def test_other_sequences_and_chunks_change_nothing(backend: str) -> None:
    case = Case(((60, 200), (1, 90), (33, 33)))
    x = build(case)
    far_q, far_k = far_side(x, case)
    config = sparse(case.page_size)
    together = attend(x, (far_q, far_k), config, backend)
    for start, stop in ((0, 7), (7, 40), (40, 59), (59, 60)):
        part = PagedBatch.build([stop - start], [140 + stop], x.pages[:1], case.page_size)
        rows = slice(start, stop)
        cut = replace(x, batch=part, q_THD=x.q_THD[rows])
        chunk = attend(cut, (far_q[rows], far_k), config, backend)
        torch.testing.assert_close(chunk, together[rows], atol=1e-6, rtol=0)


@pytest.mark.parametrize("backend", ["reference", *FAST_BACKENDS])
def test_the_mass_of_blocks_is_what_their_values_are_weighed_with(backend: str) -> None:
    """Values that say which block they are in make attention say how much of each it read."""
    case = Case(((40, 200), (20, 20)))
    x, config = build(case), sparse(16)
    far_q, far_k = far_side(x, case)
    for pages in x.pages:
        for block, page in enumerate(pages):
            x.v_cache[page] = torch.eye(32)[block]
    block_ids = select_blocks(far_q, far_k, x.batch, config, num_groups=2, backend=backend)
    near_ids = near_blocks(x.batch.positions_T, 2, 16)
    caches = (x.k_cache, far_k, x.v_cache)
    mixed, share = clamped_attention(x.q_THD, far_q, *caches, block_ids, near_ids, x.batch, backend=backend)
    rows = WatchedRows.of(torch.tensor([0, 17, 39, 40, 59]), x.batch)
    near, far = (x.q_THD, x.k_cache), (far_q, far_k)
    mass = clamped_mass(near, far, block_ids, near_ids, share, rows, x.batch, backend=backend)
    expected = mixed.unflatten(1, (2, 3)).mean(2)[rows.row_W, :, : mass.shape[2]]
    torch.testing.assert_close(mass, expected, atol=1e-5, rtol=0)
    assert 0 < float(share[39].min()) < 1 and not share[40:].any()


def test_errors_name_the_argument() -> None:
    case = Case(((4, 20),))
    x = build(case)
    far = far_side(x, case)
    with pytest.raises(ValueError, match="block_ids_TRN: expected more than the 3 near blocks"):
        attend(x, far, SparseConfig(index_block_size=16, index_topk_blocks=3, index_local_blocks=3), "torch")
    caches, ids = (x.k_cache, far[1], x.v_cache), torch.zeros(4, 2, 5, dtype=torch.int32)
    near_ids = near_blocks(x.batch.positions_T, 2, 16)
    with pytest.raises(ValueError, match=r"far_q_THD: expected \[T, H, D\]"):
        clamped_attention(x.q_THD, far[0][:, :2], *caches, ids, near_ids, x.batch)
    with pytest.raises(ValueError, match=r"near_ids_T1M: expected \[T, 1, M\]"):
        clamped_attention(x.q_THD, far[0], *caches, ids, near_ids[:3], x.batch)
