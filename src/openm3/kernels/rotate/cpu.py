"""Native kernel, `native/rotate.cpp`. Letters as in `op.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.kernels import native_call
from openm3.kernels.backend import native
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
    v_stride = k_cache_PRSD.stride() if v_cache_PRSD is None else v_cache_PRSD.stride()
    if k_cache_PRSD.stride() != v_stride or k_cache_PRSD.stride(3) != 1:
        raise ValueError("k_cache_PRSD, v_cache_PRSD: the native kernel needs equal strides, 1 in the last dimension")
    if heads_TXD.stride()[1:] != (heads_TXD.shape[2], 1):
        heads_TXD = heads_TXD.contiguous()
    cos_TE, sin_TE = cos_TE.contiguous(), sin_TE.contiguous()
    num_tokens, num_all_heads, head_size = heads_TXD.shape
    num_kv_heads = k_cache_PRSD.shape[1]
    num_heads = num_all_heads - (1 if v_cache_PRSD is None else 2) * num_kv_heads
    q_THD = torch.empty((num_tokens, num_heads, head_size), dtype=heads_TXD.dtype)
    page_stride, head_stride, slot_stride, _ = k_cache_PRSD.stride()
    native().rotate(
        native_call.DTYPES[heads_TXD.dtype],
        heads_TXD.data_ptr(),
        heads_TXD.stride(0),
        cos_TE.data_ptr(),
        sin_TE.data_ptr(),
        norms.q_scale_D.data_ptr() if norms else 0,
        norms.k_scale_D.data_ptr() if norms else 0,
        norms.eps if norms else 0.0,
        turns_queries,
        q_THD.data_ptr(),
        k_cache_PRSD.data_ptr(),
        0 if v_cache_PRSD is None else v_cache_PRSD.data_ptr(),
        page_stride,
        head_stride,
        slot_stride,
        num_heads,
        num_kv_heads,
        batch.page_size,
        head_size,
        cos_TE.shape[1],
        batch.query_start_B1.data_ptr(),
        batch.context_len_B.data_ptr(),
        batch.page_table_BP.data_ptr(),
        len(batch.context_len_B),
        batch.page_table_BP.shape[1],
        torch.get_num_threads(),
    )
    return q_THD
