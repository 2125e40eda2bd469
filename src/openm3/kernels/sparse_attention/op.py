"""Contract of `sparse_attention`.

Letters: T packed query tokens, H query heads, R key/value heads (= groups), G = H / R heads a group, N chosen
blocks, P pages, S page size (= block size), D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.kernels import checks
from openm3.kernels.backend import choose
from openm3.kernels.lazy import lazy
from openm3.kernels.paged import PagedBatch
from openm3.kernels.sparse_attention import cpu, reference, torch_path

_IMPLEMENTATIONS = {
    "triton": lazy("openm3.kernels.sparse_attention.gpu", "sparse_attention"),
    "native": cpu.sparse_attention,
    "torch": torch_path.sparse_attention,
    "reference": reference.sparse_attention,
}


def sparse_attention(
    q_THD: Tensor,
    k_cache_PRSD: Tensor,
    v_cache_PRSD: Tensor,
    block_ids_TRN: Tensor,
    batch: PagedBatch,
    *,
    scale: float | None = None,
    backend: str = "torch",
) -> Tensor:
    """softmax(q·k * scale) v over the causally visible tokens of each query's chosen blocks.

    The G heads of a group share one set of blocks (MSA, arXiv 2606.13392, Main Branch). With every visible block
    chosen it equals `dense_attention`.

    Args:
        q_THD: `[T, H, D]`, float32, bfloat16 or float16.
        k_cache_PRSD, v_cache_PRSD: `[P, R, S, D]`, like q; they hold this step's keys and values already.
        block_ids_TRN: int32 `[T, R, N]` as `select_blocks` returns it: distinct ids of blocks of the query's own
            sequence, ascending, -1 on the right; at least the query's own block.
        batch: sequences and pages.
        scale: 1 / sqrt(D) when None.
        backend: see `kernels/backend.py`.

    Returns:
        `[T, H, D]` like q.

    Raises:
        ValueError: a shape, dtype or device is wrong, or a page lies outside the cache.
    """
    return sparse_attention_lse(q_THD, k_cache_PRSD, v_cache_PRSD, block_ids_TRN, batch, scale=scale, backend=backend)[
        0
    ]


def sparse_attention_lse(
    q_THD: Tensor,
    k_cache_PRSD: Tensor,
    v_cache_PRSD: Tensor,
    block_ids_TRN: Tensor,
    batch: PagedBatch,
    *,
    scale: float | None = None,
    backend: str = "torch",
) -> tuple[Tensor, Tensor]:
    """`sparse_attention`, and the natural logarithm of each softmax's sum: `[T, H]`, fp32 (float64 for float64)."""
    checks.check_attention(q_THD, k_cache_PRSD, v_cache_PRSD, batch)
    checks.check_shape("block_ids_TRN", block_ids_TRN, (batch.num_tokens, k_cache_PRSD.shape[1], None), "T, R, N")
    if block_ids_TRN.dtype != torch.int32:
        raise ValueError(f"block_ids_TRN: expected int32, got {block_ids_TRN.dtype}")
    if scale is None:
        scale = float(q_THD.shape[2] ** -0.5)
    return _IMPLEMENTATIONS[choose(backend, q_THD)](q_THD, k_cache_PRSD, v_cache_PRSD, block_ids_TRN, batch, scale)
