"""`block_mass`: every backend against the reference, and the reference against a plain softmax."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.paged_case import CASES, FAST_BACKENDS, TOLERANCE, Case, Paged, build
from openm3.config import SparseConfig
from openm3.kernels.backend import BACKENDS
from openm3.kernels.block_mass import WatchedRows, block_mass
from openm3.kernels.select_blocks import select_blocks

ALL_BACKENDS = [*FAST_BACKENDS, "reference"]


def watch(x: Paged, rows: list[int] | None = None) -> WatchedRows:
    """The last row of every sequence, and the first of the batch."""
    last = [span.rows.stop - 1 for span in x.batch.spans]
    return WatchedRows.of(torch.tensor(rows if rows is not None else sorted({0, *last})), x.batch)


def chosen(x: Paged, topk: int) -> Tensor:
    groups = x.k_cache.shape[1]
    config = SparseConfig(index_block_size=x.batch.page_size, index_topk_blocks=topk)
    return select_blocks(x.q_THD, x.k_cache, x.batch, config, num_groups=groups, backend="torch")


@pytest.mark.parametrize("topk", [None, 3])
@pytest.mark.parametrize("backend", FAST_BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference(case: Case, backend: str, topk: int | None) -> None:
    x = build(case)
    ids = None if topk is None else chosen(x, topk)
    mass = block_mass(x.q_THD, x.k_cache, watch(x), x.batch, block_ids_TRN=ids, backend=backend)
    expected = block_mass(x.q_THD, x.k_cache, watch(x), x.batch, block_ids_TRN=ids, backend="reference")
    torch.testing.assert_close(mass, expected, atol=TOLERANCE[case.dtype] / 4, rtol=0)
    torch.testing.assert_close(mass.sum(-1), torch.ones(mass.shape[:2]), atol=1e-4, rtol=0)


def test_reference_is_a_softmax_summed_over_blocks() -> None:
    x = build(Case(((1, 70),), num_kv_heads=1, group_size=2))
    weights_L = (x.q_THD[0] @ x.k_LRD[:, 0].mT * x.q_THD.shape[2] ** -0.5).softmax(-1).mean(0)
    mass = block_mass(x.q_THD, x.k_cache, watch(x), x.batch, backend="reference")
    expected = torch.stack([part.sum() for part in weights_L.split(16)])
    torch.testing.assert_close(mass[0, 0], expected)


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_chosen_blocks_share_what_all_have_among_themselves(backend: str) -> None:
    """The law of one head a group: leaving blocks out scales the others."""
    x = build(Case(((40, 200), (1, 77)), group_size=1))
    ids = chosen(x, 4)
    every = block_mass(x.q_THD, x.k_cache, watch(x), x.batch, backend=backend)
    some = block_mass(x.q_THD, x.k_cache, watch(x), x.batch, block_ids_TRN=ids, backend=backend)
    for w, row in enumerate(watch(x).row_W.tolist()):
        for r in range(2):
            read = ids[row, r][ids[row, r] >= 0].long()
            kept = torch.zeros_like(every[w, r]).index_copy(0, read, every[w, r][read])
            torch.testing.assert_close(some[w, r], kept / kept.sum(), atol=1e-5, rtol=0)
            assert not torch.equal(some[w, r], every[w, r]) or len(read) * 16 >= int(watch(x).position_W[w]) + 1


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_rows_are_alone_and_in_a_crowd_the_same(backend: str) -> None:
    x = build(Case(((7, 90), (1, 257), (30, 30))))
    rows = [0, 3, 6, 7, 8, 37]
    crowd = block_mass(x.q_THD, x.k_cache, watch(x, rows), x.batch, backend=backend)
    for i, row in enumerate(rows):
        alone = block_mass(x.q_THD, x.k_cache, watch(x, [row]), x.batch, backend=backend)
        assert torch.equal(alone[0], crowd[i])


@pytest.mark.skipif("native" not in BACKENDS, reason="native kernels are not built")
@pytest.mark.parametrize("threads", [1, 3])
def test_native_on_a_long_context_and_strided_queries(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x = build(Case(((2, 20_000),), num_kv_heads=1, group_size=5, dtype=torch.bfloat16))
        wide = torch.cat([x.q_THD, torch.full_like(x.q_THD, torch.nan)], dim=1)[:, : x.q_THD.shape[1]]
        mass = block_mass(wide, x.k_cache, watch(x), x.batch, backend="native")
        expected = block_mass(x.q_THD, x.k_cache, watch(x), x.batch, backend="torch")
        torch.testing.assert_close(mass, expected, atol=2e-3, rtol=0)
    finally:
        torch.set_num_threads(before)


def test_errors_name_the_argument() -> None:
    x = build(Case(((4, 20),)))
    with pytest.raises(ValueError, match=r"row_W: the batch has rows 0 to 3, got \[4\]"):
        WatchedRows.of(torch.tensor([4]), x.batch)
    with pytest.raises(ValueError, match="k_cache_PRSD: expected head size 16"):
        block_mass(x.q_THD[..., :16], x.k_cache, watch(x), x.batch)
    with pytest.raises(ValueError, match="block_ids_TRN: expected int32"):
        block_mass(x.q_THD, x.k_cache, watch(x), x.batch, block_ids_TRN=torch.zeros(4, 2, 1))
    if "native" in BACKENDS:
        ids = torch.full((4, 2, 1), 9, dtype=torch.int32)
        with pytest.raises(ValueError, match="block_ids_TRN: a block is not visible"):
            block_mass(x.q_THD, x.k_cache, watch(x), x.batch, block_ids_TRN=ids, backend="native")
