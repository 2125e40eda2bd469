"""Contract of `block_mass`.

Letters: T packed query tokens, W watched ones, H query heads, R key/value heads (= groups), G = H / R heads a group,
N chosen blocks, P pages, S page size (= block size), D head size, B blocks of the longest sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.kernels import checks
from openm3.kernels.backend import choose
from openm3.kernels.block_mass import cpu, reference, torch_path
from openm3.kernels.block_mass.rows import WatchedRows
from openm3.kernels.paged import PagedBatch

_IMPLEMENTATIONS = {
    "triton": torch_path.block_mass,  # torch's operations run on a GPU too; a few rows are no work for one
    "native": cpu.block_mass,
    "torch": torch_path.block_mass,
    "reference": reference.block_mass,
}


def block_mass(
    q_THD: Tensor,
    k_cache_PRSD: Tensor,
    watched: WatchedRows,
    batch: PagedBatch,
    *,
    block_ids_TRN: Tensor | None = None,
    scale: float | None = None,
    backend: str = "torch",
) -> Tensor:
    """The share of each block in the softmax of attention, mean over the heads of a group, for a few query tokens.

    It is what `sparse_attention` with these blocks, or `dense_attention` without, weighs the values with, summed over
    each block's visible tokens. A row reads its keys once; memory is linear in its tokens.

    Args:
        q_THD: `[T, H, D]`, float32, bfloat16 or float16, as given to attention.
        k_cache_PRSD: `[P, R, S, D]`, like q; it holds this step's keys already.
        watched: the query tokens.
        batch: sequences and pages.
        block_ids_TRN: int32 `[T, R, N]` as `select_blocks` returns it; None: all visible blocks.
        scale: 1 / sqrt(D) when None.
        backend: see `kernels/backend.py`.

    Returns:
        fp32 `[W, R, B]`: by block of the row's sequence; rows sum to 1, and blocks that were not read have 0.

    Raises:
        ValueError: a shape, dtype or device is wrong, or a page lies outside the cache.
    """
    checks.check_queries("q_THD", q_THD, batch)
    checks.check_cache("k_cache_PRSD", k_cache_PRSD, batch)
    checks.check_alike("k_cache_PRSD", k_cache_PRSD, "q_THD", q_THD)
    checks.check_heads("q_THD", q_THD.shape[1], "k_cache_PRSD", k_cache_PRSD.shape[1])
    if k_cache_PRSD.shape[3] != q_THD.shape[2]:
        raise ValueError(f"k_cache_PRSD: expected head size {q_THD.shape[2]} like q_THD, got {k_cache_PRSD.shape[3]}")
    if block_ids_TRN is not None:
        checks.check_shape("block_ids_TRN", block_ids_TRN, (batch.num_tokens, k_cache_PRSD.shape[1], None), "T, R, N")
        if block_ids_TRN.dtype != torch.int32:
            raise ValueError(f"block_ids_TRN: expected int32, got {block_ids_TRN.dtype}")
    if scale is None:
        scale = float(q_THD.shape[2] ** -0.5)
    return _IMPLEMENTATIONS[choose(backend, q_THD)](q_THD, k_cache_PRSD, watched, batch, block_ids_TRN, scale)
