"""Sparse attention over what is near and over what is far, merged by their log-sum-exp.

There are no kernels of its own: both parts are what every backend has. Letters as in `op.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.kernels.clamped_attention.blocks import far_blocks
from openm3.kernels.paged import PagedBatch
from openm3.kernels.sparse_attention import sparse_attention_lse


def clamped_attention(
    near: tuple[Tensor, Tensor],
    far: tuple[Tensor, Tensor],
    v_cache_PRSD: Tensor,
    block_ids_TRN: Tensor,
    near_ids_T1M: Tensor,
    batch: PagedBatch,
    backend: str,
) -> tuple[Tensor, Tensor]:
    near_ids_TRM = near_ids_T1M.expand(-1, v_cache_PRSD.shape[1], -1)
    near_THD, near_lse_TH = sparse_attention_lse(*near, v_cache_PRSD, near_ids_TRM, batch, backend=backend)
    if int(batch.context_len_B.max()) <= near_ids_T1M.shape[2] * batch.page_size:
        return near_THD, torch.zeros_like(near_lse_TH)  # nothing is far from anyone
    far_ids_TRN, nothing_T1 = far_blocks(block_ids_TRN, near_ids_T1M)
    far_THD, far_lse_TH = sparse_attention_lse(*far, v_cache_PRSD, far_ids_TRN, batch, backend=backend)
    share_TH = torch.sigmoid(far_lse_TH.masked_fill(nothing_T1, -torch.inf) - near_lse_TH)
    mixed_THD = torch.lerp(near_THD.to(share_TH.dtype), far_THD.to(share_TH.dtype), share_TH[..., None])
    return mixed_THD.to(near_THD.dtype), share_TH
