"""The definition in fp32, one query and group at a time. Letters as in `op.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.kernels.paged import PagedBatch


def clamped_attention(
    near: tuple[Tensor, Tensor],
    far: tuple[Tensor, Tensor],
    v_cache_PRSD: Tensor,
    block_ids_TRN: Tensor,
    near_ids_T1M: Tensor,
    batch: PagedBatch,
) -> tuple[Tensor, Tensor]:
    out_THD, page_size, num_groups = torch.empty_like(near[0]), batch.page_size, v_cache_PRSD.shape[1]
    share_TH = torch.empty(out_THD.shape[:2])
    group_size, scale = out_THD.shape[1] // num_groups, out_THD.shape[2] ** -0.5
    for span in batch.spans:
        for i in range(span.num_queries):
            t, own_position = span.rows.start + i, span.first_position + i
            for r in range(num_groups):
                heads = slice(r * group_size, (r + 1) * group_size)
                scores, values, is_far = [], [], []
                for block in [b for b in block_ids_TRN[t, r].tolist() if b >= 0]:
                    is_near = block in near_ids_T1M[t, 0]
                    q_THD, k_PRSD = near if is_near else far
                    for position in range(block * page_size, min((block + 1) * page_size, own_position + 1)):
                        page, slot = span.pages[block], position % page_size
                        scores.append(q_THD[t, heads].float() @ k_PRSD[page, r, slot].float() * scale)
                        values.append(v_cache_PRSD[page, r, slot].float())
                        is_far.append(not is_near)
                weights_GL = torch.stack(scores, dim=1).softmax(-1)
                out_THD[t, heads] = (weights_GL @ torch.stack(values)).to(out_THD.dtype)
                share_TH[t, heads] = weights_GL @ torch.tensor(is_far).float()
    return out_THD, share_TH
