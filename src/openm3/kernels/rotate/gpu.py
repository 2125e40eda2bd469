"""Triton kernel: a head of a token is rotated, or not, and goes where it belongs. Letters as in `op.py`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from openm3.kernels.gpu_shape import power_of_2
from openm3.kernels.paged import PagedBatch


def rotate_and_write(
    heads_TXD: Tensor,
    cos_TE: Tensor,
    sin_TE: Tensor,
    k_cache_PRSD: Tensor,
    v_cache_PRSD: Tensor,
    batch: PagedBatch,
) -> Tensor:
    num_tokens, num_heads, size = heads_TXD.shape
    num_kv_heads = k_cache_PRSD.shape[1]
    num_queries = num_heads - 2 * num_kv_heads
    q_THD = torch.empty((num_tokens, num_queries, size), dtype=heads_TXD.dtype, device=heads_TXD.device)
    _rotate_kernel[(num_tokens, num_heads)](
        heads_TXD,
        cos_TE.contiguous(),
        sin_TE.contiguous(),
        q_THD,
        k_cache_PRSD,
        v_cache_PRSD,
        *batch.on(heads_TXD.device).slots,
        *heads_TXD.stride(),
        *k_cache_PRSD.stride(),
        *v_cache_PRSD.stride(),
        num_queries,
        num_kv_heads,
        E=size // 2,
        BE=power_of_2(size // 2),
        num_warps=1,
        enable_fp_fusion=False,  # the bits of torch's products and sums
    )
    return q_THD


@triton.jit
def _rotate_kernel(
    heads_ptr,
    cos_ptr,
    sin_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    page_ptr,
    offset_ptr,
    h_st,
    h_sx,
    h_sd,
    k_sp,
    k_sr,
    k_ss,
    k_sd,
    v_sp,
    v_sr,
    v_ss,
    v_sd,
    num_queries,
    num_kv_heads,
    E: tl.constexpr,
    BE: tl.constexpr,
):
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    e = tl.arange(0, BE)
    mask = e < E
    from_ptr = heads_ptr + token * h_st + head * h_sx
    first = tl.load(from_ptr + e * h_sd, mask=mask, other=0.0)
    second = tl.load(from_ptr + (E + e) * h_sd, mask=mask, other=0.0)
    page, offset = tl.load(page_ptr + token), tl.load(offset_ptr + token)
    if head < num_queries + num_kv_heads:
        cos = tl.load(cos_ptr + token * E + e, mask=mask, other=0.0)
        sin = tl.load(sin_ptr + token * E + e, mask=mask, other=0.0)
        x, y = first.to(tl.float32), second.to(tl.float32)
        first, second = (x * cos - y * sin).to(first.dtype), (y * cos + x * sin).to(first.dtype)
        if head < num_queries:
            to_ptr = q_ptr + (token * num_queries + head) * (2 * E)
            tl.store(to_ptr + e, first, mask=mask)
            tl.store(to_ptr + E + e, second, mask=mask)
        else:
            to_ptr = k_ptr + page * k_sp + (head - num_queries) * k_sr + offset * k_ss
            tl.store(to_ptr + e * k_sd, first, mask=mask)
            tl.store(to_ptr + (E + e) * k_sd, second, mask=mask)
    else:
        to_ptr = v_ptr + page * v_sp + (head - num_queries - num_kv_heads) * v_sr + offset * v_ss
        tl.store(to_ptr + e * v_sd, first, mask=mask)
        tl.store(to_ptr + (E + e) * v_sd, second, mask=mask)
