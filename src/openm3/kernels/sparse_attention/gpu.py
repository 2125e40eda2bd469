"""Triton kernels: by block where its blocks have many readers, else by query. Letters as in `op.py`.

Each sequence is judged alone, so that it gives the same bits whatever runs beside it.
"""

from __future__ import annotations

from torch import Tensor

from openm3.kernels.device import FEW_QUERIES
from openm3.kernels.gpu_attention import attend, contiguous, empty_results
from openm3.kernels.gpu_shape import key_tile
from openm3.kernels.gpu_tuning import tuning
from openm3.kernels.paged import PagedBatch, Span
from openm3.kernels.sparse_attention.gpu_by_block import attend_by_block


def sparse_attention(
    q_THD: Tensor,
    k_cache_PRSD: Tensor,
    v_cache_PRSD: Tensor,
    block_ids_TRN: Tensor,
    batch: PagedBatch,
    scale: float,
) -> tuple[Tensor, Tensor]:
    into = empty_results(q_THD)
    q_THD, k_cache_PRSD, v_cache_PRSD = contiguous(q_THD, k_cache_PRSD, v_cache_PRSD)
    args = (q_THD, k_cache_PRSD, v_cache_PRSD, block_ids_TRN, batch, scale)
    one_tile = q_THD.element_size() == 2 and key_tile(batch.page_size, q_THD.shape[2], 2) >= batch.page_size
    needed = tuning(q_THD.device).by_block_readers
    others = []
    for b, span in enumerate(batch.spans):
        if one_tile and span.num_queries > FEW_QUERIES and _readers_a_block(span, block_ids_TRN.shape[2]) >= needed:
            attend_by_block(*args, span.rows, into)
        else:
            others.append(b)
    if others:
        attend(*args, tuple(others), into)
    return into


def _readers_a_block(span: Span, num_chosen: int) -> float:
    """On average."""
    return span.num_queries * num_chosen / len(span.pages)
