"""Finds the launches of a GPU by trying them, one kind after the other, on one layer of M3 with random keys.

Letters as in `select_blocks/op.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from openm3.config import SparseConfig
from openm3.kernels.dense_attention import dense_attention
from openm3.kernels.gpu_tuning import Launch, Tuning, tuning, using
from openm3.kernels.paged import PagedBatch
from openm3.kernels.select_blocks import QuantisedIndex, select_blocks
from openm3.kernels.sparse_attention import sparse_attention

_GROUPS, _HEADS, _SIZE, _PAGE = 4, 64, 128, 128
_SPARSE = SparseConfig(index_block_size=_PAGE, index_topk_blocks=16)

CANDIDATES = {
    "scan_few": [Launch(16, programs, 4, stages) for programs in (2, 3, 4) for stages in (2, 3, 4)],
    "bound_few": [Launch(16, programs, 4, stages) for programs in (2, 3, 4) for stages in (2, 3, 5)],
    "scan_many": [Launch(128, 4, warps, stages) for warps in (4, 8) for stages in (2, 3)],
    "dense_few": [Launch(16, 0, 4, stages) for stages in (2, 3, 4)],
    "dense_many": [Launch(rows, 0, warps, stages) for rows, warps in ((64, 4), (128, 8)) for stages in (2, 3)],
    "sparse_few": [Launch(16, 0, 4, stages) for stages in (1, 2, 3)],
    "sparse_many": [Launch(16, 0, 4, stages) for stages in (1, 2, 3)],
    "by_block": [Launch(rows, 16, warps, 1) for rows, warps in ((32, 4), (64, 4), (128, 8))],
}

Time = Callable[[Callable[[], object]], float]
Say = Callable[[str], None]


class Layer:
    """One context of M3: its caches, its queries, and a call for each kind of launch."""

    def __init__(self, device: torch.device, context: int, queries: int) -> None:
        def noise(*shape: int) -> Tensor:
            return torch.randn(shape, device=device, dtype=torch.bfloat16)

        pages = context // _PAGE
        order = torch.randperm(pages).tolist()
        self._k, self._v = noise(pages, _GROUPS, _PAGE, _SIZE), noise(pages, _GROUPS, _PAGE, _SIZE)
        self._index_k = noise(pages, 1, _PAGE, _SIZE)
        self._q, self._index_q = noise(queries, _HEADS, _SIZE), noise(queries, _GROUPS, _SIZE)
        self._many, self._few = (PagedBatch.build([n], [context], [order], _PAGE) for n in (queries, 1))
        self._index = QuantisedIndex(self._index_k, "triton")
        self._index.update(self._index_k, PagedBatch.build([context], [context], [order], _PAGE))

    def calls(self) -> dict[str, Callable[[], object]]:
        some, none = self._choose(self._many), self._choose(self._few)
        return {
            "scan_few": lambda: self._choose(self._few),
            "bound_few": lambda: self._choose(self._few, self._index),
            "scan_many": lambda: self._choose(self._many),
            "dense_few": lambda: self._dense(self._few),
            "dense_many": lambda: self._dense(self._many),
            "sparse_few": lambda: self._sparse(self._few, none),
            "sparse_many": lambda: self._sparse(self._many, some),
            "by_block": lambda: self._sparse(self._many, some),
        }

    def _choose(self, batch: PagedBatch, index: QuantisedIndex | None = None) -> Tensor:
        index_q = self._index_q[-batch.num_tokens :]
        options = {"num_groups": _GROUPS, "quantised": index, "backend": "triton"}
        return select_blocks(index_q, self._index_k, batch, _SPARSE, **options)  # type: ignore[arg-type]

    def _dense(self, batch: PagedBatch) -> Tensor:
        return dense_attention(self._q[-batch.num_tokens :], self._k, self._v, batch, backend="triton")

    def _sparse(self, batch: PagedBatch, ids: Tensor) -> Tensor:
        return sparse_attention(self._q[-batch.num_tokens :], self._k, self._v, ids, batch, backend="triton")


def search(device: torch.device, layer: Layer, kinds: Sequence[str], time: Time, say: Say) -> Tuning:
    """The table in use with the fastest candidate of each kind in its place; `time` gives milliseconds."""
    from triton.runtime.errors import OutOfResources

    best, calls = tuning(device), layer.calls()
    for kind in kinds:
        # Many queries are attended to by block or by query; each kind is measured alone.
        fixed = {"sparse_many": {"by_block_readers": 1 << 30}, "by_block": {"by_block_readers": 0}}.get(kind, {})
        measured: dict[Launch, float] = {}
        for launch in dict.fromkeys([best.launches[kind], *CANDIDATES[kind]]):
            try:
                with using(device, replace(best, **{kind: launch}, **fixed)):  # type: ignore[arg-type]
                    measured[launch] = time(calls[kind])
            except OutOfResources:
                continue  # a tile that this GPU has no memory for
        fastest = min(measured, key=measured.__getitem__)
        say(f"{kind}: {fastest}, {measured[fastest]:.3f} ms (was {measured[best.launches[kind]]:.3f} ms)")
        best = replace(best, **{kind: fastest})  # type: ignore[arg-type]
    return best


def replayed(call: Callable[[], object]) -> float:
    """Milliseconds of a call, without Python's part."""
    from triton.testing import do_bench_cudagraph

    return float(do_bench_cudagraph(call, rep=20, return_mode="median"))
