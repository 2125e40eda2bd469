"""Contract of `select_blocks`.

Letters: T packed query tokens, J index query heads, X index key heads, R groups (key/value heads), P pages,
S page size, C index head size, N chosen blocks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from openm3.config import SparseConfig
from openm3.kernels import checks
from openm3.kernels.backend import choose
from openm3.kernels.lazy import lazy
from openm3.kernels.paged import PagedBatch
from openm3.kernels.select_blocks import cpu, reference, torch_path
from openm3.kernels.select_blocks.quantised import QuantisedIndex

_IMPLEMENTATIONS = {
    "triton": lazy("openm3.kernels.select_blocks.gpu", "select_blocks"),
    "native": cpu.select_blocks,
    "torch": torch_path.select_blocks,
    "reference": reference.select_blocks,
}


def select_blocks(
    index_q_TJC: Tensor,
    index_k_cache_PXSC: Tensor,
    batch: PagedBatch,
    sparse: SparseConfig,
    *,
    num_groups: int,
    topk_B: Tensor | None = None,
    quantised: QuantisedIndex | None = None,
    backend: str = "torch",
) -> Tensor:
    """The blocks that every query reads, per group of heads (MSA, arXiv 2606.13392, Index Branch).

    score(i, b, r) = max over visible tokens j of block b, and over the index query heads h of group r, of
    index_q[i, h] · index_k[j]; in fp32, without scale, relu or softmax. M3 has one index query head a group
    and one index key head that all share (J = R, X = 1). A dense model scanned by its own keys has all
    its query heads and each group's key head (J = H, X = R).

    The rules, the same on every backend:
    - Blocks are anchored to positions in the sequence; where pages lie, or padding, changes nothing.
    - The last `index_local_blocks` visible blocks (the query's own among them) and the first
      `index_init_blocks` always take their slots of `index_topk_blocks`.
    - Of the others the highest scores win; at equal scores the lower block id. A score is held within
      the finite range of fp32; NaN counts as the lowest.
    - With no more than `index_topk_blocks` visible blocks, all of them are chosen.

    Args:
        index_q_TJC: `[T, J, C]`, J a multiple of num_groups.
        index_k_cache_PXSC: `[P, X, S, C]` with X = 1 or num_groups; it holds this step's keys already.
        batch: sequences and pages; its page size is `sparse.index_block_size`.
        sparse: how many blocks, and which are always read.
        num_groups: R.
        topk_B: int32 `[B]`: how many blocks the queries of each sequence read, at most `index_topk_blocks`, which is
            what all read without it. Not on Triton.
        quantised: the same keys in 8 bits, up to date, for backends that have code for it (native and triton): they
            then read less where it pays, and select the same.
        backend: see `kernels/backend.py`.

    Returns:
        int32 `[T, R, index_topk_blocks]`: block ids, ascending, -1 on the right.

    Raises:
        ValueError: a shape, dtype or device is wrong, or a page lies outside the cache.
    """
    checks.check_queries("index_q_TJC", index_q_TJC, batch)
    checks.check_cache("index_k_cache_PXSC", index_k_cache_PXSC, batch)
    checks.check_alike("index_q_TJC", index_q_TJC, "index_k_cache_PXSC", index_k_cache_PXSC)
    checks.check_heads("index_q_TJC", index_q_TJC.shape[1], "num_groups", num_groups)
    if index_k_cache_PXSC.shape[1] not in (1, num_groups):
        raise ValueError(f"index_k_cache_PXSC: expected 1 or {num_groups} heads, got {index_k_cache_PXSC.shape[1]}")
    if index_k_cache_PXSC.shape[3] != index_q_TJC.shape[2]:
        raise ValueError(
            f"index_k_cache_PXSC: expected head size {index_q_TJC.shape[2]} like index_q_TJC, "
            f"got {index_k_cache_PXSC.shape[3]}"
        )
    if batch.page_size != sparse.index_block_size:
        raise ValueError(f"batch: expected pages of index_block_size {sparse.index_block_size}, got {batch.page_size}")
    chosen, options = choose(backend, index_q_TJC), dict[str, Any]()
    if topk_B is not None:
        _check_topk(topk_B, batch, sparse, chosen)
        options["topk_B"] = topk_B
    if quantised is not None:
        if chosen != quantised.backend:
            raise ValueError(f"quantised: it is for the backend {quantised.backend!r}, got backend {chosen!r}")
        checks.check_shape("index_k_cache_PXSC", index_k_cache_PXSC, quantised.shape, "P, X, S, C of quantised")
        options["quantised"] = quantised
    return _IMPLEMENTATIONS[chosen](index_q_TJC, index_k_cache_PXSC, batch, sparse, num_groups, **options)


def _check_topk(topk_B: Tensor, batch: PagedBatch, sparse: SparseConfig, backend: str) -> None:
    if backend == "triton":
        raise ValueError("topk_B: the triton backend chooses index_topk_blocks for every sequence; leave it out")
    if topk_B.dtype != torch.int32 or topk_B.device.type != "cpu" or not topk_B.is_contiguous():
        raise ValueError(f"topk_B: expected contiguous int32 on the CPU, got {topk_B.dtype} on {topk_B.device}")
    checks.check_shape("topk_B", topk_B, tuple(batch.context_len_B.shape), "B")
    least, most = sparse.index_init_blocks + sparse.index_local_blocks, sparse.index_topk_blocks
    if bool(((topk_B < least) | (topk_B > most)).any()):
        raise ValueError(f"topk_B: expected from the {least} blocks always read to {most}, got {topk_B.tolist()}")
