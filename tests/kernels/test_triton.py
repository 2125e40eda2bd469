"""Triton's kernels against the reference: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from helpers.paged_case import CASES, DEVICE, TOLERANCE, Case, Paged, build, on_device
from openm3.config import SparseConfig
from openm3.errors import InputError
from openm3.kernels.backend import BACKENDS, choose
from openm3.kernels.dense_attention import dense_attention
from openm3.kernels.paged import PagedBatch
from openm3.kernels.rms_norm import rms_norm
from openm3.kernels.rotate import HeadNorms, rotate_and_write
from openm3.kernels.select_blocks import select_blocks
from openm3.kernels.sparse_attention import sparse_attention, sparse_attention_lse

pytestmark = [
    pytest.mark.skipif("triton" not in BACKENDS, reason="triton is not installed"),
    pytest.mark.filterwarnings("ignore:All-NaN slice", "ignore:invalid value", "ignore:overflow"),  # the interpreter's
]

# The interpreter runs a program at a time; what it can't finish in seconds is left to a GPU.
SMALL = [case for case in CASES if DEVICE == "cuda" or sum(context for _, context in case.lens) < 700]


def config(x: Paged, topk: int = 3, local: int = 1, init: int = 0) -> SparseConfig:
    return SparseConfig(
        index_block_size=x.batch.page_size, index_topk_blocks=topk, index_local_blocks=local, index_init_blocks=init
    )


def select(x: Paged, sparse: SparseConfig, groups: int | None = None) -> torch.Tensor:
    """What the kernel chooses, checked against the definition."""
    groups = groups or x.k_cache.shape[1]
    expected = select_blocks(x.q_THD, x.k_cache, x.batch, sparse, num_groups=groups, backend="reference")
    y = on_device(x)
    ids = select_blocks(y.q_THD, y.k_cache, y.batch, sparse, num_groups=groups, backend="triton").cpu()
    assert torch.equal(ids, expected)
    return ids


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_selection(case: Case) -> None:
    """Blocks are chosen for each row by itself, so prompts with many rows are tried with one number of blocks."""
    x = build(case)
    wanted = (config(x), config(x, topk=4, local=2, init=1), config(x, topk=1))
    for sparse in wanted if x.batch.num_tokens < 70 or DEVICE == "cuda" else wanted[:1]:
        select(x, sparse)


@pytest.mark.parametrize("queries", [1, 5, 50])
def test_one_shared_index_key(queries: int) -> None:
    """M3's index: one query head a group, one key head for all."""
    x = build(Case(((queries, 300),), num_kv_heads=1, group_size=4, head_dim=64, dtype=torch.bfloat16))
    ids = select(x, config(x, topk=5), groups=4)
    assert (ids[-1, 0] != ids[-1, 1:]).any(), "every group chooses for itself"


def test_several_index_heads_share_one_key() -> None:
    x = build(Case(((1, 130), (20, 170)), num_kv_heads=1, group_size=12))
    select(x, config(x), groups=3)


@pytest.mark.parametrize("page_size", [50, 127])
def test_blocks_of_any_size(page_size: int) -> None:
    x = build(Case(((1, 7 * page_size + 3), (4, 5 * page_size - 1)), page_size, num_kv_heads=1, group_size=2))
    select(x, config(x), groups=2)
    attention(x, topk=3)


def test_ties_nan_and_infinity() -> None:
    x = build(Case(((1, 160),), num_kv_heads=1, group_size=1))
    x.q_THD.fill_(1.0)
    page = x.pages[0]
    x.k_cache[list(page)] = 0.5
    assert select(x, config(x, topk=4))[0, 0].tolist() == [0, 1, 2, 9]
    x.k_cache[page[3], 0, 5] = torch.inf
    x.k_cache[page[5], 0, 0, 0] = torch.nan  # one token of block 5; its other tokens still count
    x.k_cache[page[6]] = torch.nan
    x.k_cache[page[7]] = -torch.inf
    for topk in (2, 8, 9):
        select(x, config(x, topk=topk))
    x.q_THD.zero_()
    x.k_cache[page[0]] = -0.5  # a negative zero is a zero
    assert select(x, config(x, topk=3))[0, 0].tolist() != []


@pytest.mark.parametrize("topk", [3, 40])
def test_many_pages(topk: int) -> None:
    """More blocks than one program ranks."""
    pages = 1500 if DEVICE == "cuda" else 600
    x = build(Case(((2, pages * 16),), num_kv_heads=1, group_size=2, head_dim=16))
    sparse = config(x, topk=topk)
    expected = select_blocks(x.q_THD, x.k_cache, x.batch, sparse, num_groups=1, backend="torch")
    y = on_device(x)
    assert torch.equal(
        select_blocks(y.q_THD, y.k_cache, y.batch, sparse, num_groups=1, backend="triton").cpu(), expected
    )


def attention(x: Paged, topk: int) -> None:
    """Sparse attention with its log-sum-exp, checked against the definition."""
    sparse = config(x, topk=topk)
    ids = select_blocks(x.q_THD, x.k_cache, x.batch, sparse, num_groups=x.k_cache.shape[1], backend="torch")
    expected, expected_lse = sparse_attention_lse(x.q_THD, x.k_cache, x.v_cache, ids, x.batch, backend="reference")
    y = on_device(x)
    out, lse = sparse_attention_lse(y.q_THD, y.k_cache, y.v_cache, ids.to(DEVICE), y.batch, backend="triton")
    assert out.dtype == x.q_THD.dtype
    torch.testing.assert_close(out.cpu(), expected, atol=TOLERANCE[out.dtype], rtol=0)
    torch.testing.assert_close(lse.cpu(), expected_lse, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_sparse_attention(case: Case) -> None:
    attention(build(case), topk=3)


@pytest.mark.parametrize("lens", [((40, 100), (3, 70)), ((1, 20), (33, 33))])
@pytest.mark.parametrize("group_size", [3, 16])
def test_by_block_equals_by_query(lens: tuple[tuple[int, int], ...], group_size: int) -> None:
    x = build(Case(lens, group_size=group_size, dtype=torch.bfloat16))
    y = on_device(x)
    ids = select_blocks(y.q_THD, y.k_cache, y.batch, config(x, topk=4), num_groups=2, backend="triton")
    from openm3.kernels.gpu_attention import attend, empty_results
    from openm3.kernels.sparse_attention.gpu_by_block import attend_by_block

    args = (y.q_THD, y.k_cache, y.v_cache, ids, y.batch, 0.2)
    (by_query, query_lse), into = attend(*args), empty_results(y.q_THD)
    attend_by_block(*args, slice(0, x.batch.num_tokens), into)
    by_block, block_lse = into
    torch.testing.assert_close(by_block, by_query, atol=2e-2, rtol=0)
    torch.testing.assert_close(block_lse, query_lse, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_dense_attention(case: Case) -> None:
    x = build(case)
    expected = dense_attention(x.q_THD, x.k_cache, x.v_cache, x.batch, backend="reference")
    y = on_device(x)
    out = dense_attention(y.q_THD, y.k_cache, y.v_cache, y.batch, backend="triton")
    torch.testing.assert_close(out.cpu(), expected, atol=TOLERANCE[case.dtype], rtol=0)


def test_a_sequence_gives_the_same_bits_alone_and_in_a_crowd() -> None:
    lens = ((1, 100), (7, 90), (1, 257), (30, 30))
    x = on_device(build(Case(lens, dtype=torch.bfloat16)))
    crowd = dense_attention(x.q_THD, x.k_cache, x.v_cache, x.batch, backend="triton")
    start = 0
    for (queries, context), pages in zip(lens, x.pages, strict=True):
        alone = PagedBatch.build([queries], [context], [pages], x.batch.page_size)
        rows = slice(start, start + queries)
        assert torch.equal(dense_attention(x.q_THD[rows], x.k_cache, x.v_cache, alone, backend="triton"), crowd[rows])
        start += queries


def test_all_blocks_are_dense_and_few_are_not() -> None:
    x = build(Case(((20, 200),)))
    y = on_device(x)
    dense = dense_attention(y.q_THD, y.k_cache, y.v_cache, y.batch, backend="triton")
    for topk, equal in ((13, True), (2, False)):
        ids = select_blocks(y.q_THD, y.k_cache, y.batch, config(x, topk), num_groups=2, backend="triton")
        out = sparse_attention(y.q_THD, y.k_cache, y.v_cache, ids, y.batch, backend="triton")
        assert (out - dense).abs().amax() < 1e-5 if equal else (out - dense)[-1].abs().amax() > 1e-3


def test_strided_queries() -> None:
    x = on_device(build(Case(((9, 50), (1, 33)))))
    wide = torch.cat([x.q_THD, torch.full_like(x.q_THD, torch.nan)], dim=1)[:, : x.q_THD.shape[1]]
    outs = []
    for q in (wide, x.q_THD):
        ids = select_blocks(q, x.k_cache, x.batch, config(x), num_groups=2, backend="triton")
        outs.append(sparse_attention(q, x.k_cache, x.v_cache, ids, x.batch, backend="triton"))
    assert torch.equal(*outs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rms_norm(dtype: torch.dtype) -> None:
    x, weight = 3 * torch.randn(5, 576), torch.randn(576)
    ours = rms_norm(x.to(DEVICE), weight.to(DEVICE), 1e-5, dtype, backend="triton").cpu()
    expected = rms_norm(x, weight, 1e-5, dtype, backend="reference")
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, expected, atol=1e-5 if dtype == torch.float32 else 0.06, rtol=1e-5)


@pytest.mark.parametrize("head_dim", [32, 80])
def test_rotate_and_write(head_dim: int) -> None:
    x = build(Case(((5, 21), (1, 1), (9, 40)), head_dim=head_dim, dtype=torch.bfloat16))
    heads, angle = (
        torch.randn(x.batch.num_tokens, 10, head_dim).bfloat16(),
        torch.randn(x.batch.num_tokens, head_dim // 2),
    )
    y = on_device(x)
    expected = rotate_and_write(heads, angle.cos(), angle.sin(), x.k_cache, x.v_cache, x.batch, backend="reference")
    given = (t.to(DEVICE) for t in (heads, angle.cos(), angle.sin()))
    ours = rotate_and_write(*given, y.k_cache, y.v_cache, y.batch, backend="triton")
    pairs = ((ours, expected), (y.k_cache, x.k_cache), (y.v_cache, x.v_cache))
    for cache, other in pairs:
        assert torch.equal(cache.cpu().isnan(), other.isnan()), "slots without a new token are left alone"
        # The interpreter cuts where it should round: one step of bfloat16.
        torch.testing.assert_close(cache.cpu().nan_to_num(), other.nan_to_num(), atol=1e-3, rtol=2**-7)


@pytest.mark.parametrize("turns_queries", [True, False])
@pytest.mark.parametrize("num_pairs", [0, 8, 24])
def test_normed_heads_without_values(num_pairs: int, turns_queries: bool) -> None:
    x = build(Case(((5, 21), (1, 1)), head_dim=48))
    heads, angle = torch.randn(6, 8, 48), torch.randn(6, num_pairs)
    y = on_device(x)
    expected, ours = (
        rotate_and_write(
            *(t.to(cache.device) for t in (heads, angle.cos(), angle.sin())),
            cache,
            None,
            x.batch,
            norms=HeadNorms(torch.linspace(1, 2, 48).to(cache.device), torch.linspace(2, 3, 48).to(cache.device), 1e-5),
            turns_queries=turns_queries,
            backend=backend,
        )
        for cache, backend in ((x.k_cache, "reference"), (y.k_cache, "triton"))
    )
    torch.testing.assert_close(ours.cpu(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(y.k_cache.cpu(), x.k_cache, atol=1e-5, rtol=1e-5, equal_nan=True)


def test_addresses_beyond_32_bits() -> None:
    """A view whose page stride is more than 2^31 elements over the memory of a single page."""
    x = on_device(build(Case(((1, 20),), num_kv_heads=1, group_size=2)))
    far = (1 << 31) + 64
    if DEVICE == "cpu":
        far = 0  # the interpreter computes addresses too, but memory that is not there can't be read
    pool = (
        torch.empty(far + x.k_cache.numel(), dtype=torch.float32, device=DEVICE) if far else x.k_cache.clone().view(-1)
    )
    k = pool.as_strided((2, *x.k_cache.shape[1:]), (far or x.k_cache.stride(0), *x.k_cache.stride()[1:]))
    k.copy_(x.k_cache[list(x.pages[0])])
    batch = PagedBatch.build([1], [20], [(0, 1)], x.batch.page_size)
    expected = dense_attention(x.q_THD, x.k_cache, x.k_cache, x.batch, backend="triton")
    assert torch.equal(dense_attention(x.q_THD, k, k, batch, backend="triton"), expected)


def test_the_backend_is_never_a_silent_choice() -> None:
    q = torch.empty(1, 2, 32, device=DEVICE)
    assert choose("triton", like=q) == "triton"
    assert choose(like=torch.empty(1, 2, 32)) != "triton", "on the CPU only when it is named"
    with pytest.raises(InputError, match="'triton' has no code for float64"):
        choose("triton", like=q.double())
    with pytest.raises(InputError, match="'triton' has no code for head size 512"):
        choose("triton", like=torch.empty(1, 512, device=DEVICE))
