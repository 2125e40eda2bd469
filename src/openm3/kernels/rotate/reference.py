"""The definition, one token at a time. Letters as in `op.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.kernels.paged import PagedBatch


def rotate_and_write(
    heads_TXD: Tensor,
    cos_TE: Tensor,
    sin_TE: Tensor,
    k_cache_PRSD: Tensor,
    v_cache_PRSD: Tensor,
    batch: PagedBatch,
) -> Tensor:
    num_kv_heads = k_cache_PRSD.shape[1]
    num_heads = heads_TXD.shape[1] - 2 * num_kv_heads
    q_THD = torch.empty_like(heads_TXD[:, :num_heads])
    for span in batch.spans:
        for i, position in enumerate(range(span.first_position, span.context_len)):
            t, page, slot = span.rows.start + i, span.pages[position // batch.page_size], position % batch.page_size
            q_HD, k_RD, v_RD = heads_TXD[t].split((num_heads, num_kv_heads, num_kv_heads))
            q_THD[t] = _rotate(q_HD, cos_TE[t], sin_TE[t])
            k_cache_PRSD[page, :, slot] = _rotate(k_RD, cos_TE[t], sin_TE[t])
            v_cache_PRSD[page, :, slot] = v_RD
    return q_THD


def _rotate(x_HD: Tensor, cos_E: Tensor, sin_E: Tensor) -> Tensor:
    first_HE, second_HE = x_HD.float().chunk(2, dim=-1)
    turned_HD = torch.cat((first_HE * cos_E - second_HE * sin_E, second_HE * cos_E + first_HE * sin_E), dim=-1)
    return turned_HD.to(x_HD.dtype)
