"""Triton kernels. Letters as in `op.py`."""

from __future__ import annotations

from torch import Tensor

from openm3.kernels.gpu_attention import attend
from openm3.kernels.paged import PagedBatch


def sparse_attention(
    q_THD: Tensor,
    k_cache_PRSD: Tensor,
    v_cache_PRSD: Tensor,
    block_ids_TRN: Tensor,
    batch: PagedBatch,
    scale: float,
) -> tuple[Tensor, Tensor]:
    return attend(q_THD, k_cache_PRSD, v_cache_PRSD, block_ids_TRN, batch, scale)
