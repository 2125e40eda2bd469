"""The native `select_blocks`: instruction sets, threads, and the scan of quantised keys, which may change no block."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.index_keys import CHANGES, Change
from helpers.paged_case import CASES, Case, Paged, build
from openm3.config import EngineConfig, SparseConfig
from openm3.engine.llm import LLM, SamplingParams
from openm3.kernels import backend
from openm3.kernels.paged import PagedBatch
from openm3.kernels.select_blocks import QuantisedIndex, select_blocks
from openm3.model import attention

pytestmark = pytest.mark.skipif("native" not in backend.BACKENDS, reason="the native kernels are not built here")


@pytest.fixture(params=["avx512", "avx2", "portable"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Forces an instruction set for one test."""
    native, name = backend.native(), str(request.param)
    before = native.isa()
    try:
        native.use_isa(name)
    except ValueError:
        pytest.skip(f"this machine lacks {name}")
    yield name
    native.use_isa(before)


def config(page_size: int, topk: int = 4, local: int = 1, init: int = 0) -> SparseConfig:
    return SparseConfig(
        index_block_size=page_size, index_topk_blocks=topk, index_local_blocks=local, index_init_blocks=init
    )


def quantised(cache: Tensor, x: Paged) -> QuantisedIndex:
    """An index of a cache whose sequences were written in one step."""
    index = QuantisedIndex(cache)
    contexts = x.batch.context_len_B.tolist()
    index.update(cache, PagedBatch.build(contexts, contexts, x.pages, x.batch.page_size))
    return index


def assert_alike(x: Paged, sparse: SparseConfig, *, num_groups: int, against: str = "native") -> QuantisedIndex:
    """Selects with quantised keys and without, and returns the index, whose counts say what was scored."""
    index = quantised(x.k_cache, x)
    args = (x.q_THD, x.k_cache, x.batch, sparse)
    expected = select_blocks(*args, num_groups=num_groups, backend=against)
    assert torch.equal(select_blocks(*args, num_groups=num_groups, backend="native"), expected)
    assert torch.equal(select_blocks(*args, num_groups=num_groups, backend="native", quantised=index), expected)
    return index


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference(case: Case, isa: str) -> None:
    x = build(case)
    for topk, local, init in ((2, 1, 0), (4, 2, 1), (1, 1, 0), (2, 1, 1)):
        sparse = config(case.page_size, topk, local, init)
        assert_alike(x, sparse, num_groups=case.num_kv_heads, against="reference")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("page_size", [16, 50, 127, 256])
def test_one_shared_index_key(page_size: int, dtype: torch.dtype, isa: str) -> None:
    """M3's index: one query head a group, one key head for all."""
    lens = ((1, 70 * page_size + 3), (2, 72 * page_size), (40, 9 * page_size - 1))
    x = build(Case(lens, page_size, num_kv_heads=1, group_size=4, head_dim=64, dtype=dtype))
    index = assert_alike(x, config(page_size, topk=3), num_groups=4, against="reference")
    assert index.scored_share < 0.9


@pytest.mark.parametrize("group_size", [1, 5, 16, 100])
def test_any_number_of_heads_in_a_group(group_size: int, isa: str) -> None:
    x = build(Case(((1, 200), (4, 600), (33, 200)), group_size=group_size, dtype=torch.bfloat16))
    assert_alike(x, config(16, topk=2), num_groups=2, against="reference")


def test_several_index_heads_share_one_key() -> None:
    x = build(Case(((1, 300), (20, 300)), num_kv_heads=1, group_size=12))
    assert_alike(x, config(16), num_groups=3, against="reference")


def test_many_pages(isa: str) -> None:
    x = build(Case(((2, 1600 * 16), (20, 1500 * 16)), num_kv_heads=1, group_size=2, head_dim=32))
    index = assert_alike(x, config(16, topk=16), num_groups=2, against="torch")
    assert index.scored_share < 0.2


def test_threads_and_company_change_nothing() -> None:
    x = build(Case(((1, 3000), (4, 900), (70, 800)), num_kv_heads=2, dtype=torch.bfloat16))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            index = quantised(x.k_cache, x)
            for keys in (None, index):
                results.append(
                    select_blocks(
                        x.q_THD, x.k_cache, x.batch, config(16), num_groups=2, backend="native", quantised=keys
                    )
                )
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)
    for i, span in enumerate(x.batch.spans):
        alone = PagedBatch.build([span.num_queries], [span.context_len], [x.pages[i]], 16)
        ids = select_blocks(x.q_THD[span.rows], x.k_cache, alone, config(16), num_groups=2, backend="native")
        assert torch.equal(ids, results[0][span.rows])


def test_quantised_keys_with_a_number_of_blocks_a_sequence(isa: str) -> None:
    x = build(Case(((1, 2003), (3, 1900), (1, 1950)), group_size=3, head_dim=64, dtype=torch.bfloat16))
    index, topk = quantised(x.k_cache, x), torch.tensor([1, 4, 7], dtype=torch.int32)
    args = (x.q_THD, x.k_cache, x.batch, config(16, topk=7))
    expected = select_blocks(*args, num_groups=2, topk_B=topk, backend="reference")
    for keys in (None, index):
        assert torch.equal(select_blocks(*args, num_groups=2, topk_B=topk, backend="native", quantised=keys), expected)
    assert 0 < index.scored_share < 0.9


def test_tokens_without_a_choice_beside_bounded_ones(isa: str) -> None:
    """One head: so many tokens are bounded together that the first of them see fewer blocks than are always read."""
    x = build(Case(((400, 400), (390, 700)), num_kv_heads=1, group_size=1, head_dim=64, dtype=torch.bfloat16))
    index = quantised(x.k_cache, x)
    for sparse in (config(16, topk=2), config(16, topk=4, local=2, init=1)):
        expected = select_blocks(x.q_THD, x.k_cache, x.batch, sparse, num_groups=1, backend="native")
        ids = select_blocks(x.q_THD, x.k_cache, x.batch, sparse, num_groups=1, backend="native", quantised=index)
        assert torch.equal(ids, expected)
    assert 0 < index.scored_share < 0.9


def test_strided_tensors() -> None:
    x = build(Case(((3, 300), (30, 200)), num_kv_heads=2, dtype=torch.bfloat16))
    expected = select_blocks(x.q_THD, x.k_cache, x.batch, config(16), num_groups=2, backend="native")
    for q in (
        x.q_THD.repeat(1, 3, 1)[:, 6:12],
        x.q_THD.mT.contiguous().mT,
        torch.stack([x.q_THD, x.q_THD], 2)[:, :, 1],
    ):
        for cache in (torch.stack([x.k_cache, x.k_cache], 2)[:, :, 0], x.k_cache.mT.contiguous().mT):
            index = quantised(cache, x)
            for keys in (None, index):
                ids = select_blocks(q, cache, x.batch, config(16), num_groups=2, backend="native", quantised=keys)
                assert torch.equal(ids, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_<>"))
def test_quantised_keys_change_no_block(change: Change, dtype: torch.dtype, isa: str) -> None:
    for seed in range(4):
        x = build(Case(((1, 2003), (3, 1900)), group_size=3, head_dim=64, dtype=dtype), seed)
        written = x.k_cache.isfinite()
        k = x.k_cache.nan_to_num(0.0)
        change(x.q_THD, k)
        x.k_cache[written] = k[written]
        assert_alike(x, config(16, topk=7), num_groups=2)


def test_every_score_lies_within_its_bounds() -> None:
    """The same sums as in native/block_bounds.h, in fp64 and from the index as it is stored."""
    x = build(Case(((1, 64 * 32),), page_size=32, num_kv_heads=2, head_dim=128, dtype=torch.bfloat16))
    x.k_cache[:, :, :, 9] *= 30
    index = quantised(x.k_cache, x)
    pages = torch.tensor(x.pages[0])
    k, scale = x.k_cache[pages].double(), index.bounds_PX4[pages][..., 0, None, None].double()
    groups_pXGWYI = index.keys_PXSC[pages].reshape(len(pages), 2, 2, 32, 16, 4)  # 16 tokens Y, four channels I
    bytes_ = groups_pXGWYI.transpose(3, 4).flatten(2, 3).flatten(3, 4).double() - 128
    centre = index.centre_PXC[pages][:, :, None].double()
    _, error, residual, length = index.bounds_PX4[pages].double().unbind(-1)
    assert bytes_.abs().max() == 127
    assert ((k - centre - scale * bytes_).norm(dim=-1).amax(-1) <= error).all()
    assert ((scale * bytes_).norm(dim=-1).amax(-1) <= residual).all()
    assert (k.norm(dim=-1).amax(-1) <= length).all()
    assert (error < 1.1 * (k - centre).abs().amax((-1, -2)) / 127 * 128**0.5 / 2 + 1e-9).all(), "and it is not idle"


def test_keys_of_the_default_model(default_model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every selection of a prompt and an answer, in every layer."""

    def both(*args: Any, quantised: QuantisedIndex, **options: Any) -> Tensor:
        blocks = select_blocks(*args, **options, quantised=quantised)
        assert torch.equal(blocks, select_blocks(*args, **options))
        return blocks

    monkeypatch.setattr(attention, "select_blocks", both)
    sparse = config(16, topk=3)
    llm = LLM(
        default_model_path, EngineConfig(attention="sparse", sparse=sparse, max_context=1024, cache_bytes=1 << 27)
    )
    llm.generate([Path(__file__).read_text()[:1800]], SamplingParams(max_tokens=4))
    assert llm.engine.runner.index == "int8"
    layers = llm.engine.runner.cache.layers
    bounded, scored = torch.stack([layer.quantised.counts_2 for layer in layers if layer.quantised]).sum(0).tolist()
    assert 0 < scored < 0.5 * bounded


def test_pages_are_quantised_as_they_fill() -> None:
    """Step by step or at once: the same index."""
    x = build(Case(((100, 100), (77, 90)), dtype=torch.bfloat16))
    whole, steps = quantised(x.k_cache, x), QuantisedIndex(x.k_cache)
    cuts = ((0, 5, 16, 33, 100), (0, 1, 64, 80, 90))
    for stops in zip(*map(pairwise, cuts), strict=True):
        lens = [stop - start for start, stop in stops]
        steps.update(x.k_cache, PagedBatch.build(lens, [stop for _, stop in stops], x.pages, 16))
    full = torch.tensor([*x.pages[0][: 100 // 16], *x.pages[1][: 90 // 16]])
    for name in ("keys_PXSC", "centre_PXC", "bounds_PX4"):
        assert torch.equal(getattr(steps, name)[full], getattr(whole, name)[full])


def test_errors_name_the_argument() -> None:
    x = build(Case(((1, 100),)))
    index = quantised(x.k_cache, x)
    with pytest.raises(ValueError, match="quantised: it is for the backend 'native', got backend 'torch'"):
        select_blocks(x.q_THD, x.k_cache, x.batch, config(16), num_groups=2, backend="torch", quantised=index)
    with pytest.raises(ValueError, match=r"index_k_cache_PXSC: expected \[P, X, S, C of quantised\] = "):
        select_blocks(
            x.q_THD,
            x.k_cache,
            x.batch,
            config(16),
            num_groups=2,
            backend="native",
            quantised=QuantisedIndex(x.k_cache[1:]),
        )
    with pytest.raises(ValueError, match="index_k_cache_PXSC: expected a head size of 16, 32, ... 1024, got 24"):
        QuantisedIndex(x.k_cache[..., :24])
    table = x.batch.page_table_BP.clone()
    table[0, 3] = -1
    batch = dataclasses.replace(x.batch, page_table_BP=table)
    with pytest.raises(ValueError, match="page_table: no page -1; a row has fewer pages than its context needs"):
        select_blocks(x.q_THD, x.k_cache, batch, config(16), num_groups=2, backend="native")
