"""Triton kernel, `gpu_attention.py`. Letters as in `op.py`."""

from __future__ import annotations

from torch import Tensor

from openm3.kernels.gpu_attention import attend
from openm3.kernels.paged import PagedBatch


def dense_attention(
    q_THD: Tensor, k_cache_PRSD: Tensor, v_cache_PRSD: Tensor, batch: PagedBatch, scale: float
) -> Tensor:
    return attend(q_THD, k_cache_PRSD, v_cache_PRSD, None, batch, scale)[0]
