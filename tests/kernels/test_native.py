"""What is special about the native kernels: three instruction sets, bits that depend on a row alone, life without them.

The cases that all backends share run on the machine's best instruction set; here each set runs them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.paged_case import CASES, TOLERANCE, Case, Paged, build, poisoned
from openm3.config import SparseConfig
from openm3.kernels.backend import BACKENDS, native
from openm3.kernels.block_mass import WatchedRows, block_mass
from openm3.kernels.dense_attention import dense_attention
from openm3.kernels.linear import PackedLinear
from openm3.kernels.paged import PagedBatch
from openm3.kernels.rms_norm import rms_norm
from openm3.kernels.rotate import HeadNorms, rotate_and_write
from openm3.kernels.select_blocks import select_blocks
from openm3.kernels.sparse_attention import sparse_attention, sparse_attention_lse

needs_native = pytest.mark.skipif("native" not in BACKENDS, reason="installed without a C++ compiler")

# Around the edges of tiles (128 keys), chunks (512) and pairs of keys; groups that fill no vector, or several.
EDGES = [
    *CASES,
    *(Case(((1, context), (3, context)), page_size=128) for context in (127, 128, 129, 511, 512, 513)),
    Case(((1, 33), (2, 35)), page_size=17, num_kv_heads=1, group_size=5, head_dim=80, dtype=torch.bfloat16),
    Case(((1, 251), (70, 500)), page_size=250, num_kv_heads=1, group_size=16, head_dim=96, dtype=torch.bfloat16),
    Case(((1, 90), (2, 90)), num_kv_heads=1, group_size=71, head_dim=64, dtype=torch.bfloat16),
    Case(((30, 300),), num_kv_heads=1, group_size=8, head_dim=16, dtype=torch.float16),
]


ISAS = ["avx512", "avx2", "portable"]
# To others than the native kernels the instruction set is all the same.
WAYS = [
    *(("native", isa) for isa in ISAS),
    *((name, "portable") for name in BACKENDS if name not in ("native", "reference")),
]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test with this instruction set."""
    before = native().isa()
    try:
        native().use_isa(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    native().use_isa(before)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def select(x: Paged, topk: int) -> Tensor:
    sparse = SparseConfig(index_block_size=x.batch.page_size, index_topk_blocks=topk)
    return select_blocks(x.q_THD, x.k_cache, x.batch, sparse, num_groups=x.k_cache.shape[1], backend="torch")


def dense(x: Paged, rows: slice | None = None, batch: PagedBatch | None = None, backend: str = "native") -> Tensor:
    q_THD = x.q_THD if rows is None else x.q_THD[rows]
    return dense_attention(q_THD, x.k_cache, x.v_cache, batch or x.batch, backend=backend)


@needs_native
@pytest.mark.parametrize("case", EDGES, ids=str)
def test_attention_equals_the_reference(case: Case, isa: str) -> None:
    x = build(case)
    tolerance = {"atol": TOLERANCE[case.dtype], "rtol": 0}
    torch.testing.assert_close(dense(x), dense(x, backend="reference"), **tolerance)
    blocks = select(x, topk=3)
    inputs = (x.q_THD, x.k_cache, x.v_cache, blocks, x.batch)
    (out, lse), (expected, expected_lse) = (sparse_attention_lse(*inputs, backend=b) for b in ("native", "reference"))
    torch.testing.assert_close(out, expected, **tolerance)
    torch.testing.assert_close(lse, expected_lse, atol=1e-2 if case.dtype == torch.bfloat16 else 1e-5, rtol=0)


@needs_native
@pytest.mark.parametrize("case", EDGES, ids=str)
def test_block_mass_equals_the_reference(case: Case, isa: str) -> None:
    x = build(case)
    watched = WatchedRows.of(torch.tensor([0, x.batch.num_tokens - 1]), x.batch)
    for blocks in (None, select(x, topk=3)):
        mass, expected = (
            block_mass(x.q_THD, x.k_cache, watched, x.batch, block_ids_TRN=blocks, backend=backend)
            for backend in ("native", "reference")
        )
        torch.testing.assert_close(mass, expected, atol=TOLERANCE[case.dtype] / 4, rtol=0)


@needs_native
def test_long_context_has_growing_chunks(isa: str) -> None:
    context, size = 70_001, 16
    cache = torch.randn(1, 1, context, size)
    pages = -(-context // 64)
    k, v = (F.pad(t, (0, 0, 0, pages * 64 - context)).view(pages, 64, 1, size).transpose(1, 2) for t in (cache, -cache))
    q_THD = torch.randn(2, 3, size)
    batch = PagedBatch.build([2], [context], [list(range(pages))], 64)
    out, expected = (dense_attention(q_THD, k, v, batch, backend=b) for b in ("native", "reference"))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_has_the_same_bits_in_every_batch(dtype: torch.dtype, isa: str, threads: None) -> None:
    """Prefill, any chunk, decode; alone or not; with any number of threads."""
    x = build(Case(((600, 600), (1, 77)), page_size=32, dtype=dtype))
    blocks = select(x, topk=4)
    torch.set_num_threads(1)
    whole, sparse = dense(x), sparse_attention(x.q_THD, x.k_cache, x.v_cache, blocks, x.batch, backend="native")
    for count in (1, 2, 3, 8):
        torch.set_num_threads(count)
        assert torch.equal(dense(x), whole)
        for start, stop in ((599, 600), (590, 600), (64, 129), (0, 1), (511, 514)):
            rows, part = slice(start, stop), PagedBatch.build([stop - start], [stop], x.pages[:1], 32)
            assert torch.equal(dense(x, rows, part), whole[rows])
            out = sparse_attention(x.q_THD[rows], x.k_cache, x.v_cache, blocks[rows], part, backend="native")
            assert torch.equal(out, sparse[rows])


@needs_native
def test_strided_queries_and_caches() -> None:
    x = build(Case(((9, 50), (1, 33)), dtype=torch.bfloat16))
    wide_q = torch.cat([torch.full_like(x.q_THD, torch.nan), x.q_THD], dim=1)
    layers_k, layers_v = (torch.stack([torch.full_like(t, torch.nan), t], dim=2) for t in (x.k_cache, x.v_cache))
    out = dense_attention(
        wide_q[:, x.q_THD.shape[1] :], layers_k[:, :, 1], layers_v[:, :, 1], x.batch, backend="native"
    )
    assert torch.equal(out, dense(x))


@needs_native
def test_ids_that_do_not_exist_are_refused() -> None:
    x = build(Case(((3, 40),)))
    blocks = select(x, topk=2)
    for wrong in (-2, 3, 1000):
        bad = blocks.clone()
        bad[1, 0, 0] = wrong
        with pytest.raises(ValueError, match=f"block_ids_TRN: token 1 sees blocks 0 to 2, got {wrong}"):
            sparse_attention(x.q_THD, x.k_cache, x.v_cache, bad, x.batch, backend="native")
    table = x.batch.page_table_BP.clone()
    table[0, 1] = -1
    batch = PagedBatch(x.batch.query_start_B1, x.batch.context_len_B, table, x.batch.page_size)
    with pytest.raises(ValueError, match="page_table: no page -1"):
        dense(x, batch=batch)


@needs_native
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 2), (31, 64), (32, 63), (96, 100), (200, 576)])
def test_linear(outputs: int, inputs: int, isa: str) -> None:
    gate, up = torch.randn(2, outputs, inputs).bfloat16() / inputs**0.5
    x = torch.randn(9, inputs).bfloat16()
    first, second = (x.float() @ weight.float().T for weight in (gate, up))
    exact = PackedLinear(gate, up, exact=True)
    assert exact.layout == "native"
    torch.testing.assert_close(exact(x), torch.cat((first, second), dim=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(PackedLinear(gate)(x), first.bfloat16(), atol=1e-3, rtol=1e-2)
    gated = PackedLinear(gate, up, gated=True)
    torch.testing.assert_close(gated(x), (F.silu(first) * second).bfloat16(), atol=1e-3, rtol=1e-2)
    stream = torch.randn(9, outputs)
    torch.testing.assert_close(PackedLinear(gate)(x, add_to=stream.clone()), stream + first, atol=1e-5, rtol=0)
    for rows in range(1, 9):
        assert torch.equal(exact(x[:rows]), exact(x)[:rows])
        assert torch.equal(gated(x[-rows:]), gated(x)[-rows:])


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1, 15, 16, 576, 1000])
def test_rms_norm(size: int, dtype: torch.dtype, isa: str) -> None:
    x_TC, weight_C = torch.randn(3, size) * 5, torch.randn(size)
    out, expected = (rms_norm(x_TC, weight_C, 1e-5, dtype, backend=b) for b in ("native", "reference"))
    torch.testing.assert_close(out, expected, atol=TOLERANCE[dtype], rtol=1e-2 if dtype == torch.bfloat16 else 1e-3)


@needs_native
@pytest.mark.parametrize(("backend", "isa"), WAYS, indirect=["isa"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_rotate_and_write(case: Case, backend: str, isa: str) -> None:
    x = build(case)
    count, size = x.batch.num_tokens, case.head_dim
    kv_TRD = torch.randn(count, 2 * case.num_kv_heads, size).to(case.dtype)
    angle_TE = torch.randn(count, size // 2) * 10
    results = []
    for name in (backend, "reference"):
        k, v = (poisoned(case, len(x.k_cache)) for _ in range(2))
        heads_TXD = torch.cat((x.q_THD, kv_TRD), dim=1)
        q = rotate_and_write(heads_TXD, angle_TE.cos(), angle_TE.sin(), k, v, x.batch, backend=name)
        results.append((q, k, v))
    for out, expected in zip(*results, strict=True):
        torch.testing.assert_close(out, expected, atol=TOLERANCE[case.dtype], rtol=1e-2, equal_nan=True)


@needs_native
@pytest.mark.parametrize(("backend", "isa"), WAYS, indirect=["isa"])
@pytest.mark.parametrize("case", [CASES[i] for i in (1, 8, 9, 10)], ids=str)
@pytest.mark.parametrize(("share", "has_norms", "turns_queries"), [(1, True, True), (2, True, False), (0, False, True)])
def test_heads_without_values_in_every_form(
    case: Case, share: int, has_norms: bool, turns_queries: bool, backend: str, isa: str
) -> None:
    """Those of an index branch: normed or not, rotated in part or not at all, or the keys alone."""
    x, size = build(case), case.head_dim
    count, num_pairs = x.batch.num_tokens, size // 2 // share if share else 0
    heads_TXD = torch.cat((x.q_THD, torch.randn(count, case.num_kv_heads, size).to(case.dtype)), dim=1)
    angle_TE = torch.randn(count, num_pairs) * 10
    norms = HeadNorms(torch.randn(size), torch.randn(size), 1e-5) if has_norms else None
    results = []
    for name in (backend, "reference"):
        k, options = poisoned(case, len(x.k_cache)), {"norms": norms, "turns_queries": turns_queries, "backend": name}
        q = rotate_and_write(heads_TXD, angle_TE.cos(), angle_TE.sin(), k, None, x.batch, **options)
        results.append((q, k))
    for out, expected in zip(*results, strict=True):
        torch.testing.assert_close(out, expected, atol=TOLERANCE[case.dtype], rtol=1e-2, equal_nan=True)
    if not has_norms and not (share and turns_queries):
        assert torch.equal(results[0][0], x.q_THD), "queries that nothing is done to"


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**environment}, check=False
    )


@needs_native
def test_the_environment_forces_an_instruction_set() -> None:
    script = "from openm3.kernels.backend import native; print(native().isa())"
    assert run(script, OPENM3_ISA="portable").stdout == "portable\n"
    refused = run(script, OPENM3_ISA="sse9").stderr
    assert "isa: expected avx512, avx2 or portable, got sse9" in refused


@needs_native
def test_blocks_that_are_too_large_are_refused_before_any_memory_is_touched() -> None:
    x = build(Case(((1, 300),), page_size=272))
    ids_TRN = torch.zeros((1, 2, 1), dtype=torch.int32)
    with pytest.raises(ValueError, match="batch: native code reads blocks of at most 256, got 272"):
        sparse_attention_lse(x.q_THD, x.k_cache, x.v_cache, ids_TRN, x.batch, backend="native")


def test_without_the_module_torch_is_the_best_backend() -> None:
    script = """
import sys
sys.modules["openm3.kernels._native"] = None  # what an import of it finds where it was not built
import torch
from openm3.errors import InputError
from openm3.kernels.backend import BACKENDS, choose
from openm3.kernels.linear import PackedLinear
assert "native" not in BACKENDS and choose() == "torch"
assert PackedLinear(torch.zeros(4, 4).bfloat16()).layout != "native"
try:
    choose("native")
except InputError as error:
    print(error)
"""
    done = run(script)
    assert done.stdout.startswith("backend: 'native' is not built here"), done.stderr
