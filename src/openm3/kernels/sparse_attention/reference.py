"""The definition in fp32, one query and group at a time. Letters as in `op.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.kernels.paged import PagedBatch


def sparse_attention(
    q_THD: Tensor,
    k_cache_PRSD: Tensor,
    v_cache_PRSD: Tensor,
    block_ids_TRN: Tensor,
    batch: PagedBatch,
    scale: float,
) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(q_THD.dtype, torch.float32)
    out_THD, lse_TH = torch.empty_like(q_THD), torch.empty(q_THD.shape[:2], dtype=dtype)
    page_size, num_groups = batch.page_size, k_cache_PRSD.shape[1]
    for span in batch.spans:
        for i in range(span.num_queries):
            t, own_position = span.rows.start + i, span.first_position + i
            for r in range(num_groups):
                blocks = [b for b in block_ids_TRN[t, r].tolist() if b >= 0]
                positions = torch.cat([torch.arange(b * page_size, (b + 1) * page_size) for b in blocks])
                positions = positions[positions <= own_position]
                page, offset = span.pages[positions // page_size], positions % page_size
                k_LD, v_LD = (cache[page, r, offset].to(dtype) for cache in (k_cache_PRSD, v_cache_PRSD))
                heads = slice(r * q_THD.shape[1] // num_groups, (r + 1) * q_THD.shape[1] // num_groups)
                scores_GL = q_THD[t, heads].to(dtype) @ k_LD.mT * scale
                out_THD[t, heads] = (scores_GL.softmax(-1) @ v_LD).to(q_THD.dtype)
                lse_TH[t, heads] = scores_GL.logsumexp(-1)
    return out_THD, lse_TH
