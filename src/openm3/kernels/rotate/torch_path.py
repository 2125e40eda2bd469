"""One rotation of all queries and keys, an indexed write for each cache. Letters as in `op.py`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

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
    num_kv_heads = k_cache_PRSD.shape[1]
    num_turned = heads_TXD.shape[1] - (0 if v_cache_PRSD is None else num_kv_heads)
    num_heads = num_turned - num_kv_heads
    x_TXD = heads_TXD[:, :num_turned].float()
    if norms is not None:
        counts = ((norms.q_scale_D, num_heads), (norms.k_scale_D, num_kv_heads))
        scale_XD = torch.cat([scale_D.expand(count, -1) for scale_D, count in counts])
        x_TXD = F.rms_norm(x_TXD, x_TXD.shape[-1:], eps=norms.eps).mul_(scale_XD)
    if turns_queries:
        x_TXD = _rotated(x_TXD, cos_TE, sin_TE)
    else:
        x_TXD = torch.cat((x_TXD[:, :num_heads], _rotated(x_TXD[:, num_heads:], cos_TE, sin_TE)), dim=1)
    x_TXD = x_TXD.to(heads_TXD.dtype)
    page_T, offset_T = batch.on(k_cache_PRSD.device).slots
    k_cache_PRSD[page_T, :, offset_T] = x_TXD[:, num_heads:]
    if v_cache_PRSD is not None:
        v_cache_PRSD[page_T, :, offset_T] = heads_TXD[:, num_turned:]
    return x_TXD[:, :num_heads]


def _rotated(x_TXD: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    num_pairs = cos_TE.shape[1]
    first_TXE, second_TXE, rest = x_TXD.tensor_split((num_pairs, 2 * num_pairs), dim=-1)
    cos_T1E, sin_T1E = cos_TE[:, None], sin_TE[:, None]
    turned = (first_TXE * cos_T1E - second_TXE * sin_T1E, second_TXE * cos_T1E + first_TXE * sin_T1E, rest)
    return torch.cat(turned, dim=-1)
