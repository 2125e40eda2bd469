"""Native kernel, `native/sparse_attention.cpp`. Letters as in `op.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.kernels import native_call
from openm3.kernels.paged import PagedBatch


def sparse_attention(
    q_THD: Tensor,
    k_cache_PRSD: Tensor,
    v_cache_PRSD: Tensor,
    block_ids_TRN: Tensor,
    batch: PagedBatch,
    scale: float,
) -> tuple[Tensor, Tensor]:
    lse_TH = torch.empty(q_THD.shape[:2])
    return native_call.attend(q_THD, k_cache_PRSD, v_cache_PRSD, block_ids_TRN, batch, scale, lse_TH), lse_TH
