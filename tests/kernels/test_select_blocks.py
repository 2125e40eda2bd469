"""`select_blocks`: every backend against the reference. Sets are compared as they are, never sorted here."""

from __future__ import annotations

import pytest
import torch

from helpers.paged_case import CASES, FAST_BACKENDS, Case, Paged, build, on_device
from openm3.config import SparseConfig
from openm3.errors import InputError
from openm3.kernels.backend import BACKENDS
from openm3.kernels.paged import PagedBatch
from openm3.kernels.select_blocks import select_blocks
from openm3.kernels.select_blocks.reference import choose_blocks

ALL_BACKENDS = ["reference", *FAST_BACKENDS]


def select(x: Paged, sparse: SparseConfig, backend: str) -> torch.Tensor:
    return select_blocks(x.q_THD, x.k_cache, x.batch, sparse, num_groups=x.k_cache.shape[1], backend=backend)


def config(x: Paged, topk: int = 3, local: int = 1, init: int = 0) -> SparseConfig:
    return SparseConfig(
        index_block_size=x.batch.page_size,
        index_topk_blocks=topk,
        index_local_blocks=local,
        index_init_blocks=init,
    )


@pytest.mark.parametrize("backend", FAST_BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference(case: Case, backend: str) -> None:
    x = build(case)
    for sparse in (config(x), config(x, topk=4, local=2, init=1), config(x, topk=1)):
        assert torch.equal(select(x, sparse, backend), select(x, sparse, "reference"))


@pytest.mark.parametrize("backend", FAST_BACKENDS)
@pytest.mark.parametrize("queries", [1, 50])
def test_one_shared_index_key(backend: str, queries: int) -> None:
    """M3's index: one query head a group, one key head for all."""
    x = build(Case(((queries, 300),), num_kv_heads=1, group_size=4, head_dim=64, dtype=torch.bfloat16))
    args = (x.q_THD, x.k_cache, x.batch, config(x, topk=5))
    blocks = select_blocks(*args, num_groups=4, backend=backend)
    assert torch.equal(blocks, select_blocks(*args, num_groups=4, backend="reference"))
    assert (blocks[-1, 0] != blocks[-1, 1:]).any(), "every group chooses for itself"


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_a_list_is_ascending_padded_and_holds_the_own_block(backend: str) -> None:
    x = build(Case(((100, 100),)))
    blocks = select(x, config(x, topk=4), backend)
    for position, groups in enumerate(blocks.tolist()):
        own = position // x.batch.page_size
        for ids in groups:
            chosen = [b for b in ids if b >= 0]
            assert len(chosen) == min(4, own + 1)
            assert chosen == sorted(set(chosen))
            assert own in chosen
            assert max(chosen) <= own
            assert ids == chosen + [-1] * (4 - len(chosen))


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_equal_scores_take_the_lower_blocks(backend: str) -> None:
    x = build(Case(((1, 160),)))
    x.k_cache.fill_(1.0)
    assert select(x, config(x, topk=4), backend)[0, 0].tolist() == [0, 1, 2, 9]
    x.q_THD.zero_()
    assert select(x, config(x, topk=4), backend)[0, 1].tolist() == [0, 1, 2, 9]


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_nan_never_wins_and_infinity_does(backend: str) -> None:
    x = build(Case(((1, 160),), num_kv_heads=1, group_size=1))
    x.q_THD.fill_(1.0)
    page = x.pages[0]
    x.k_cache[list(page)] = 0.5
    x.k_cache[page[3], 0, 5] = torch.inf
    x.k_cache[page[5], 0, 0, 0] = torch.nan  # one token of block 5; its other tokens still count
    x.k_cache[page[6]] = torch.nan
    x.k_cache[page[7]] = -torch.inf
    assert select(x, config(x, topk=2), backend)[0, 0].tolist() == [3, 9]
    assert select(x, config(x, topk=8), backend)[0, 0].tolist() == [0, 1, 2, 3, 4, 5, 8, 9]
    assert select(x, config(x, topk=9), backend)[0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9]


@pytest.mark.parametrize("backend", FAST_BACKENDS)
def test_other_sequences_and_chunks_change_nothing(backend: str) -> None:
    lens = ((60, 200), (1, 90), (33, 33))
    x = build(Case(lens))
    sparse = config(x, topk=4)
    together = select(x, sparse, backend)
    for start, stop in ((0, 7), (7, 40), (40, 60)):
        part = PagedBatch.build([stop - start], [140 + stop], x.pages[:1], x.batch.page_size)
        chunk = select_blocks(x.q_THD[start:stop], x.k_cache, part, sparse, num_groups=2, backend=backend)
        assert torch.equal(chunk, together[start:stop])


@pytest.mark.parametrize("backend", FAST_BACKENDS)
def test_many_pages(backend: str) -> None:
    x = build(Case(((2, 1500 * 16),), num_kv_heads=1, group_size=2, head_dim=16))
    sparse = config(x, topk=16)
    assert torch.equal(select(x, sparse, backend), select(x, sparse, "reference"))


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_every_sequence_has_its_own_number_of_blocks(backend: str) -> None:
    lens = ((40, 200), (1, 150), (3, 90), (1, 30))
    x = build(Case(lens, dtype=torch.bfloat16))
    topk = [2, 6, 4, 3]
    sparse = config(x, topk=6, init=1)
    ids_TRN = select_blocks(
        x.q_THD,
        x.k_cache,
        x.batch,
        sparse,
        num_groups=2,
        topk_B=torch.tensor(topk, dtype=torch.int32),
        backend=backend,
    )
    assert ids_TRN.shape[2] == 6
    for span, number in zip(x.batch.spans, topk, strict=True):
        expected = select(x, config(x, topk=number, init=1), "reference")[span.rows]
        assert torch.equal(ids_TRN[span.rows, :, :number], expected)
        assert (ids_TRN[span.rows, :, number:] == -1).all()


@pytest.mark.skipif("triton" not in BACKENDS, reason="Triton is not installed here")
def test_triton_refuses_numbers_of_blocks() -> None:
    x = on_device(build(Case(((1, 100),))))
    topk = torch.tensor([2], dtype=torch.int32)
    with pytest.raises(ValueError, match="topk_B: the triton backend chooses index_topk_blocks for every sequence"):
        select_blocks(x.q_THD, x.k_cache, x.batch, config(x), num_groups=2, topk_B=topk, backend="triton")


@pytest.mark.parametrize("number", [1, 5])
def test_a_number_of_blocks_out_of_range(number: int) -> None:
    x = build(Case(((1, 100), (1, 100))))
    topk = torch.tensor([2, number], dtype=torch.int32)
    with pytest.raises(ValueError, match=rf"topk_B: expected from the 2 blocks always read to 4, got \[2, {number}\]"):
        select_blocks(x.q_THD, x.k_cache, x.batch, config(x, topk=4, init=1), num_groups=2, topk_B=topk)
    with pytest.raises(ValueError, match="topk_B: expected contiguous int32 on the CPU, got torch.int64 on cpu"):
        select_blocks(x.q_THD, x.k_cache, x.batch, config(x), num_groups=2, topk_B=topk.long())
    with pytest.raises(ValueError, match=r"topk_B: expected \[B\] = \[2\], got \[1\]"):
        select_blocks(x.q_THD, x.k_cache, x.batch, config(x), num_groups=2, topk_B=topk[:1])


def test_choose_blocks_by_hand() -> None:
    sparse = SparseConfig(index_block_size=16, index_topk_blocks=3, index_local_blocks=1, index_init_blocks=1)
    assert choose_blocks([0.0, 5.0, 9.0, 9.0, 1.0], sparse) == [0, 2, 4]
    assert choose_blocks([0.0, 5.0], sparse) == [0, 1]


def test_errors_name_the_argument() -> None:
    x = build(Case(((4, 20),)))
    with pytest.raises(ValueError, match="batch: expected pages of index_block_size 32"):
        select(x, SparseConfig(index_block_size=32), "torch")
    with pytest.raises(ValueError, match="index_k_cache_PXSC: expected 1 or 3 heads"):
        select_blocks(x.q_THD, x.k_cache, x.batch, config(x), num_groups=3)
    with pytest.raises(ValueError, match="index_k_cache_PXSC: expected head size 16"):
        select_blocks(x.q_THD[..., :16], x.k_cache, x.batch, config(x), num_groups=2)
    with pytest.raises(InputError, match="index_topk_blocks: 1 is less than the 2 blocks always read"):
        config(x, topk=1, local=2)
    with pytest.raises(InputError, match="unknown backend 'torhc'; did you mean 'torch'"):
        select(x, config(x), "torhc")
