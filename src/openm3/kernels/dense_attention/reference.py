"""The definition in fp32, one sequence at a time. Letters as in `op.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.kernels.paged import PagedBatch


def dense_attention(
    q_THD: Tensor, k_cache_PRSD: Tensor, v_cache_PRSD: Tensor, batch: PagedBatch, scale: float
) -> Tensor:
    out_THD = torch.empty_like(q_THD)
    group_size = q_THD.shape[1] // k_cache_PRSD.shape[1]
    for span in batch.spans:
        k_HLD, v_HLD = (
            cache[span.pages]
            .transpose(0, 1)
            .flatten(1, 2)[:, : span.context_len]
            .float()
            .repeat_interleave(group_size, 0)
            for cache in (k_cache_PRSD, v_cache_PRSD)
        )
        scores_HtL = q_THD[span.rows].float().transpose(0, 1) @ k_HLD.mT * scale
        position_L = torch.arange(span.context_len)
        hidden_tL = position_L > position_L[span.first_position :, None]
        weights_HtL = scores_HtL.masked_fill(hidden_tL, -torch.inf).softmax(-1)
        out_THD[span.rows] = (weights_HtL @ v_HLD).transpose(0, 1).to(q_THD.dtype)
    return out_THD
