"""Index keys of 8 bits on Triton's kernels: the same blocks as by the exact scan, on any keys."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from helpers.index_keys import CHANGES, Change
from helpers.paged_case import DEVICE, Case, Paged, build, on_device
from openm3.config import SparseConfig
from openm3.kernels.backend import BACKENDS
from openm3.kernels.paged import PagedBatch
from openm3.kernels.select_blocks import QuantisedIndex, select_blocks

pytestmark = [
    pytest.mark.skipif("triton" not in BACKENDS, reason="triton is not installed"),
    pytest.mark.filterwarnings(
        "ignore:All-NaN slice", "ignore:invalid value", "ignore:overflow", "ignore:divide"
    ),  # the interpreter's
]


ON_GPU = DEVICE == "cuda"  # the interpreter runs a program at a time: less is tried there


def config(page_size: int, topk: int = 4, local: int = 1, init: int = 0) -> SparseConfig:
    return SparseConfig(
        index_block_size=page_size, index_topk_blocks=topk, index_local_blocks=local, index_init_blocks=init
    )


@pytest.fixture(autouse=True)
def contexts_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds are used however short a context is."""
    from openm3.kernels.select_blocks import gpu

    monkeypatch.setattr(gpu, "LEAST_BOUNDED", 0)


def quantised(y: Paged) -> QuantisedIndex:
    """An index of a cache whose sequences were written in one step."""
    index = QuantisedIndex(y.k_cache, "triton")
    contexts = y.batch.context_len_B.tolist()
    index.update(y.k_cache, PagedBatch.build(contexts, contexts, y.pages, y.batch.page_size))
    return index


def assert_alike(x: Paged, sparse: SparseConfig, num_groups: int) -> None:
    """With 8 bits and without, and as the definition has it."""
    y = on_device(x)
    args = (y.q_THD, y.k_cache, y.batch, sparse)
    exact = select_blocks(*args, num_groups=num_groups, backend="triton")
    bounded = select_blocks(*args, num_groups=num_groups, backend="triton", quantised=quantised(y))
    assert torch.equal(bounded, exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("page_size", [16, 50, 128])
def test_one_shared_index_key(page_size: int, dtype: torch.dtype) -> None:
    """M3's index: one query head a group, one key head for all."""
    lens = ((1, 30 * page_size + 3), (2, 20 * page_size), (40, 9 * page_size - 1), (6, 11 * page_size + 2))
    lens = lens if ON_GPU else ((2, 9 * page_size + 1),)
    x = build(Case(lens, page_size, num_kv_heads=1, group_size=4, head_dim=64, dtype=dtype))
    for sparse in (config(page_size, topk=4, local=2, init=1), config(page_size, topk=3), config(page_size, topk=1)):
        assert_alike(x, sparse, 4)
        if not ON_GPU:
            break


@pytest.mark.parametrize("group_size", [1, 5, 16])
def test_own_keys(group_size: int) -> None:
    lens = ((1, 200), (4, 300), (33, 100)) if ON_GPU else ((1, 150),)
    x = build(Case(lens, group_size=group_size, dtype=torch.bfloat16))
    assert_alike(x, config(16, topk=2), 2)


def test_several_index_heads_share_one_key() -> None:
    assert_alike(
        build(Case(((1, 200), (5, 200)) if ON_GPU else ((1, 200),), num_kv_heads=1, group_size=12)), config(16), 3
    )


@pytest.mark.parametrize("topk", [3, 40])
def test_many_pages(topk: int) -> None:
    pages = 1500 if ON_GPU else 60
    x = build(
        Case(
            ((2, pages * 16), (1, 16 * topk)) if ON_GPU else ((1, pages * 16),),
            num_kv_heads=1,
            group_size=2,
            head_dim=16,
            dtype=torch.bfloat16,
        )
    )
    assert_alike(x, config(16, topk=topk), 1)


@pytest.mark.parametrize("bounded", [False, True])
def test_a_list_longer_than_is_ranked_at_once(bounded: bool) -> None:
    """All scores but a few are equal, so that every block is left open; the lowest ids win, and the few."""
    pages = 300 if ON_GPU else 140
    x = build(Case(((1, pages * 16),), num_kv_heads=1, group_size=1, head_dim=16, dtype=torch.bfloat16))
    x.q_THD.fill_(1.0)
    x.k_cache[list(x.pages[0])] = 0.5
    for block in (70, 139 - 2):
        x.k_cache[x.pages[0][block], 0, 3] = 0.5078125  # the next number of bfloat16 but one
    y = on_device(x)
    index = quantised(y) if bounded else None
    ids = select_blocks(
        y.q_THD, y.k_cache, y.batch, config(16, topk=5), num_groups=1, backend="triton", quantised=index
    )
    assert ids[0, 0].tolist() == [0, 1, 70, 137, pages - 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_<>"))
def test_any_keys(change: Change, dtype: torch.dtype) -> None:
    if not ON_GPU and dtype == torch.float32:
        pytest.skip("on a GPU")
    lens = ((1, 2003), (3, 1900)) if ON_GPU else ((1, 219),)
    for seed in range(4 if ON_GPU else 1):
        x = build(Case(lens, group_size=3, head_dim=64, dtype=dtype), seed)
        written = x.k_cache.isfinite()
        k = x.k_cache.nan_to_num(0.0)
        change(x.q_THD, k)
        x.k_cache[written] = k[written]
        assert_alike(x, config(16, topk=7 if ON_GPU else 4), 2)


def test_every_score_lies_within_its_bounds() -> None:
    """The same sums as in native/block_bounds.h, in fp64 and from the index as it is stored."""
    x = build(Case(((1, 16 * 32),), page_size=32, num_kv_heads=2, head_dim=128, dtype=torch.bfloat16))
    x.k_cache[:, :, :, 9] *= 30
    index, pages = quantised(on_device(x)), torch.tensor(x.pages[0])
    levels, centre, bounds = (t.cpu()[pages].double() for t in (index.keys_PXSC, index.centre_PXC, index.bounds_PX4))
    k, scale = x.k_cache[pages].double(), bounds[..., 0, None, None]
    _, error, kept, length = bounds.unbind(-1)
    lost = k - centre[:, :, None] - scale * levels
    assert levels.abs().max() == 127
    assert (lost.norm(dim=-1).amax(-1) <= error).all()
    assert ((scale * levels).norm(dim=-1).amax(-1) <= kept).all()
    assert (k.norm(dim=-1).amax(-1) <= length).all()
    assert (error < 1.1 * (k - centre[:, :, None]).abs().amax((-1, -2)) / 127 * 128**0.5 / 2).all(), (
        "and it is not idle"
    )


def test_pages_are_quantised_as_they_fill() -> None:
    """Step by step or at once: the same index."""
    y = on_device(build(Case(((100, 100), (77, 90)), dtype=torch.bfloat16)))
    whole, steps = quantised(y), QuantisedIndex(y.k_cache, "triton")
    cuts = ((0, 5, 16, 33, 100), (0, 1, 64, 80, 90))
    for stops in zip(*map(pairwise, cuts), strict=True):
        lens = [stop - start for start, stop in stops]
        steps.update(y.k_cache, PagedBatch.build(lens, [stop for _, stop in stops], y.pages, 16))
    full = torch.tensor([*y.pages[0][: 100 // 16], *y.pages[1][: 90 // 16]])
    for name in ("keys_PXSC", "centre_PXC", "bounds_PX4"):
        ours, expected = (_at(getattr(index, name), full) for index in (steps, whole))
        assert torch.equal(ours, expected)


def _at(tensor: Tensor, pages: Tensor) -> Tensor:
    return tensor[pages.to(tensor.device)]


def test_an_index_is_for_one_backend() -> None:
    x = build(Case(((1, 100),)))
    index = QuantisedIndex(x.k_cache, "native" if "native" in BACKENDS else "torch")
    with pytest.raises(ValueError, match="quantised: it is for the backend"):
        select_blocks(x.q_THD, x.k_cache, x.batch, config(16), num_groups=2, backend="reference", quantised=index)
