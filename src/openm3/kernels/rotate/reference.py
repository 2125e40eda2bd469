"""The definition, one token at a time. Letters as in `op.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.kernels.paged import PagedBatch
from openm3.kernels.rotate.norms import HeadNorms


def rotate_and_write(
    heads_TXD: Tensor,
    cos_TE: Tensor,
    sin_TE: Tensor,
    k_cache_PRSD: Tensor,
    v_cache_PRSD: Tensor | None,
    batch: PagedBatch,
    norms: HeadNorms | None = None,
    turns_queries: bool = True,
) -> Tensor:
    num_kv_heads, has_values = k_cache_PRSD.shape[1], v_cache_PRSD is not None
    num_heads = heads_TXD.shape[1] - (2 if has_values else 1) * num_kv_heads
    q_THD = torch.empty_like(heads_TXD[:, :num_heads])
    for span in batch.spans:
        for i, position in enumerate(range(span.first_position, span.context_len)):
            t, page, slot = span.rows.start + i, span.pages[position // batch.page_size], position % batch.page_size
            q_HD, k_RD = heads_TXD[t, :num_heads].float(), heads_TXD[t, num_heads:][:num_kv_heads].float()
            if norms is not None:
                q_HD, k_RD = _norm(q_HD, norms.q_scale_D, norms.eps), _norm(k_RD, norms.k_scale_D, norms.eps)
            q_THD[t] = _rotate(q_HD, cos_TE[t], sin_TE[t]) if turns_queries else q_HD
            k_cache_PRSD[page, :, slot] = _rotate(k_RD, cos_TE[t], sin_TE[t]).to(heads_TXD.dtype)
            if v_cache_PRSD is not None:
                v_cache_PRSD[page, :, slot] = heads_TXD[t, num_heads + num_kv_heads :]
    return q_THD


def _norm(x_XD: Tensor, scale_D: Tensor, eps: float) -> Tensor:
    return x_XD / (x_XD.square().mean(-1, keepdim=True) + eps).sqrt() * scale_D


def _rotate(x_XD: Tensor, cos_E: Tensor, sin_E: Tensor) -> Tensor:
    num_pairs = len(cos_E)
    first_XE, second_XE, rest = x_XD.tensor_split((num_pairs, 2 * num_pairs), dim=-1)
    return torch.cat((first_XE * cos_E - second_XE * sin_E, second_XE * cos_E + first_XE * sin_E, rest), dim=-1)
