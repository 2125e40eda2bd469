"""One rotation of all queries and keys, two indexed writes. Letters as in `op.py`."""

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
    turned_TXD, v_TRD = heads_TXD.split((heads_TXD.shape[1] - num_kv_heads, num_kv_heads), dim=1)
    first_TXE, second_TXE = turned_TXD.float().chunk(2, dim=-1)
    cos_T1E, sin_T1E = cos_TE[:, None], sin_TE[:, None]
    turned_TXD = torch.cat(
        (first_TXE * cos_T1E - second_TXE * sin_T1E, second_TXE * cos_T1E + first_TXE * sin_T1E), dim=-1
    ).to(heads_TXD.dtype)
    page_T, offset_T = batch.on(k_cache_PRSD.device).slots
    k_cache_PRSD[page_T, :, offset_T] = turned_TXD[:, -num_kv_heads:]
    v_cache_PRSD[page_T, :, offset_T] = v_TRD
    return turned_TXD[:, :-num_kv_heads]
