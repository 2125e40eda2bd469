"""Contract of `clamped_attention`.

Letters: T packed query tokens, H query heads, R key/value heads (= groups), P pages, S page size (= block size), D head
size, N chosen blocks, M near blocks.
"""

from __future__ import annotations

from torch import Tensor

from openm3.kernels import checks
from openm3.kernels.backend import choose
from openm3.kernels.clamped_attention import by_parts, reference
from openm3.kernels.paged import PagedBatch


def clamped_attention(
    near_q_THD: Tensor,
    far_q_THD: Tensor,
    near_k_cache_PRSD: Tensor,
    far_k_cache_PRSD: Tensor,
    v_cache_PRSD: Tensor,
    block_ids_TRN: Tensor,
    near_ids_T1M: Tensor,
    batch: PagedBatch,
    *,
    backend: str = "torch",
) -> tuple[Tensor, Tensor]:
    """softmax(scores / sqrt(D)) v over the chosen blocks of each query, near ones and far ones scored apart.

    The last M visible blocks are near: a score is near_q · near_k, which are rotated by their true positions. The
    blocks before them are far: a score is far_q · far_k, rotated such that a far block's distance is the same wherever
    it stands (InfLLM, arXiv 2402.04617). It is one softmax over both.

    Where all visible blocks are near it equals `dense_attention` of what is near.

    Args:
        near_q_THD, far_q_THD: `[T, H, D]`, float32, bfloat16 or float16.
        near_k_cache_PRSD, far_k_cache_PRSD, v_cache_PRSD: `[P, R, S, D]`, like the queries; they hold this step's keys
            and values already.
        block_ids_TRN: as `select_blocks` returns them with M as its `index_local_blocks`: all near blocks, and up to
            N - M far ones.
        near_ids_T1M: what `near_blocks` gives, the same in all layers.
        batch: sequences and pages.
        backend: see `kernels/backend.py`.

    Returns:
        `[T, H, D]` like the queries; and fp32 `[T, H]`, the share of the softmax that the far blocks have.

    Raises:
        ValueError: a shape, dtype or device is wrong, a page lies outside a cache, or no far block may be read.
    """
    checks.check_attention(near_q_THD, near_k_cache_PRSD, v_cache_PRSD, batch)
    checks.check_attention(far_q_THD, far_k_cache_PRSD, v_cache_PRSD, batch)
    checks.check_shape("far_q_THD", far_q_THD, tuple(near_q_THD.shape), "T, H, D")
    checks.check_shape("block_ids_TRN", block_ids_TRN, (batch.num_tokens, v_cache_PRSD.shape[1], None), "T, R, N")
    checks.check_shape("near_ids_T1M", near_ids_T1M, (batch.num_tokens, 1, None), "T, 1, M")
    if block_ids_TRN.shape[2] <= near_ids_T1M.shape[2]:
        raise ValueError(f"block_ids_TRN: expected more than the {near_ids_T1M.shape[2]} near blocks, for far ones")
    args = ((near_q_THD, near_k_cache_PRSD), (far_q_THD, far_k_cache_PRSD), v_cache_PRSD, block_ids_TRN, near_ids_T1M)
    if choose(backend, near_q_THD) == "reference":
        return reference.clamped_attention(*args, batch)
    return by_parts.clamped_attention(*args, batch, backend)
