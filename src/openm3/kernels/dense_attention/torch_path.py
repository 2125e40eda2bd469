"""torch's fused CPU attention for many queries, grouped matrix products for one. Letters as in `op.py`.

Many queries: the fused kernel knows no causal mask that starts in the middle of a context, and a materialised mask
would be queries x context. So the cached prefix (no mask) and the new tokens (causal) are two calls, merged by
their log-sum-exp. For the prefix, the G heads of a group are more rows of one head, which reads each key once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.kernels.paged import PagedBatch, Span

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def dense_attention(
    q_THD: Tensor, k_cache_PRSD: Tensor, v_cache_PRSD: Tensor, batch: PagedBatch, scale: float
) -> Tensor:
    return torch.cat(
        [
            (_attend_one if span.num_queries == 1 else _attend_many)(
                q_THD[span.rows], span.gather(k_cache_PRSD), span.gather(v_cache_PRSD), span, scale
            )
            for span in batch.spans
        ]
    )


def _attend_one(q_1HD: Tensor, k_pRSD: Tensor, v_pRSD: Tensor, span: Span, scale: float) -> Tensor:
    num_pages, num_groups, page_size, _ = k_pRSD.shape
    filled = span.context_len - (num_pages - 1) * page_size  # slots of the last page; what lies behind is not read
    q_RGD = q_1HD.view(num_groups, -1, q_1HD.shape[2])
    scores_RGpS = (q_RGD @ k_pRSD.mT).permute(1, 2, 0, 3)
    weights_RGL = (scores_RGpS.flatten(2)[..., : span.context_len].float() * scale).softmax(-1).to(q_1HD.dtype)
    out_RGD = weights_RGL[..., -filled:] @ v_pRSD[-1, :, :filled]
    if num_pages > 1:
        weights_RGpS = weights_RGL[..., :-filled].unflatten(-1, (-1, page_size))
        out_RGD = out_RGD + (weights_RGpS.permute(2, 0, 1, 3) @ v_pRSD[:-1]).sum(0)
    return out_RGD.view(q_1HD.shape)


def _attend_many(q_tHD: Tensor, k_pRSD: Tensor, v_pRSD: Tensor, span: Span, scale: float) -> Tensor:
    k_RLD = k_pRSD.transpose(0, 1).flatten(1, 2)[:, : span.context_len]
    v_RLD = v_pRSD.transpose(0, 1).flatten(1, 2)[:, : span.context_len]
    group_size = q_tHD.shape[1] // k_RLD.shape[0]
    prefix = span.first_position
    q_HtD = q_tHD.transpose(0, 1)
    own_k_HtD, own_v_HtD = (x[:, prefix:].repeat_interleave(group_size, 0) for x in (k_RLD, v_RLD))
    out_1HtD, lse_1Ht = _flash(q_HtD[None], own_k_HtD[None], own_v_HtD[None], is_causal=True, scale=scale)
    out_HtD = out_1HtD[0]
    if prefix:
        q_RgD = q_HtD.reshape(k_RLD.shape[0], -1, q_HtD.shape[2])
        before_1RgD, before_lse_1Rg = _flash(q_RgD[None], k_RLD[None, :, :prefix], v_RLD[None, :, :prefix], scale=scale)
        share_Ht1 = torch.sigmoid(before_lse_1Rg.reshape(lse_1Ht[0].shape) - lse_1Ht[0])[..., None]
        out_HtD = torch.lerp(out_HtD.float(), before_1RgD.reshape(out_HtD.shape).float(), share_Ht1)
    return out_HtD.transpose(0, 1).to(q_tHD.dtype)
