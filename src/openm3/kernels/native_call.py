"""What the native attention kernels are given: addresses, strides and sizes. Letters as in the op.py files."""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.kernels.backend import native
from openm3.kernels.paged import PagedBatch

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_LARGEST_BLOCK = 256  # kMaxKeys in native/attention_tile.h


def attend(
    q_THD: Tensor,
    k_cache_PRSD: Tensor,
    v_cache_PRSD: Tensor,
    block_ids_TRN: Tensor | None,
    batch: PagedBatch,
    scale: float,
    lse_TH: Tensor | None = None,
) -> Tensor:
    """Attention over the chosen blocks, or over all tokens where `block_ids_TRN` is None.

    `lse_TH`, fp32, takes the natural logarithm of each row's sum of exponentials.
    """
    if q_THD.stride(2) != 1:
        q_THD = q_THD.contiguous()
    if k_cache_PRSD.stride() != v_cache_PRSD.stride() or k_cache_PRSD.stride(3) != 1:
        k_cache_PRSD, v_cache_PRSD = k_cache_PRSD.contiguous(), v_cache_PRSD.contiguous()
    if block_ids_TRN is not None:
        block_ids_TRN = block_ids_TRN.contiguous()
        if batch.page_size > _LARGEST_BLOCK:
            raise ValueError(f"batch: native code reads blocks of at most {_LARGEST_BLOCK}, got {batch.page_size}")
    num_tokens, num_heads, head_size = q_THD.shape
    out_THD = torch.empty((num_tokens, num_heads, head_size), dtype=q_THD.dtype)
    page_stride, head_stride, slot_stride, _ = k_cache_PRSD.stride()
    native().attention(
        DTYPES[q_THD.dtype],
        q_THD.data_ptr(),
        q_THD.stride(0),
        q_THD.stride(1),
        k_cache_PRSD.data_ptr(),
        v_cache_PRSD.data_ptr(),
        page_stride,
        head_stride,
        slot_stride,
        out_THD.data_ptr(),
        0 if lse_TH is None else lse_TH.data_ptr(),
        num_heads,
        k_cache_PRSD.shape[1],
        batch.page_size,
        head_size,
        scale,
        batch.query_start_B1.data_ptr(),
        batch.context_len_B.data_ptr(),
        batch.page_table_BP.data_ptr(),
        len(batch.context_len_B),
        batch.page_table_BP.shape[1],
        k_cache_PRSD.shape[0],
        0 if block_ids_TRN is None else block_ids_TRN.data_ptr(),
        0 if block_ids_TRN is None else block_ids_TRN.shape[2],
        torch.get_num_threads(),
    )
    return out_THD
