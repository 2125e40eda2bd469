"""Triton kernel: a head of a token is normed and rotated, or not, and goes where it belongs. Letters as in `op.py`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from openm3.kernels.gpu_shape import power_of_2
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
    num_tokens, num_heads, size = heads_TXD.shape
    num_kv_heads, num_pairs = k_cache_PRSD.shape[1], cos_TE.shape[1]
    num_queries = num_heads - (1 if v_cache_PRSD is None else 2) * num_kv_heads
    q_THD = torch.empty((num_tokens, num_queries, size), dtype=heads_TXD.dtype, device=heads_TXD.device)
    values = k_cache_PRSD if v_cache_PRSD is None else v_cache_PRSD  # never written without values
    _rotate_kernel[(num_tokens, num_heads)](
        heads_TXD,
        cos_TE.contiguous(),
        sin_TE.contiguous(),
        norms.q_scale_D if norms else cos_TE,
        norms.k_scale_D if norms else cos_TE,
        norms.eps if norms else 0.0,
        q_THD,
        k_cache_PRSD,
        values,
        *batch.on(heads_TXD.device).slots,
        *heads_TXD.stride(),
        *k_cache_PRSD.stride(),
        *values.stride(),
        num_queries,
        num_kv_heads,
        D=size,
        BD=power_of_2(size),
        E=num_pairs,
        NORMS=norms is not None,
        TURNS_QUERIES=turns_queries,
        num_warps=1,
        enable_fp_fusion=False,  # the bits of torch's products and sums
    )
    return q_THD


@triton.jit
def _rotate_kernel(
    heads_ptr,
    cos_ptr,
    sin_ptr,
    q_scale_ptr,
    k_scale_ptr,
    eps,
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
    D: tl.constexpr,
    BD: tl.constexpr,
    E: tl.constexpr,
    NORMS: tl.constexpr,
    TURNS_QUERIES: tl.constexpr,
):
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    d = tl.arange(0, BD)
    mask = d < D
    from_ptr = heads_ptr + token * h_st + head * h_sx
    own = tl.load(from_ptr + d * h_sd, mask=mask, other=0.0)
    page, offset = tl.load(page_ptr + token), tl.load(offset_ptr + token)
    is_query, is_turned = head < num_queries, head < num_queries + num_kv_heads
    if is_turned:
        # An element x of a pair becomes x cos - y sin or x cos + y sin, y being the other one.
        in_pair = d < 2 * E
        other_d = tl.where(d < E, d + E, d - E)
        x = own.to(tl.float32)
        y = tl.load(from_ptr + other_d * h_sd, mask=in_pair, other=0.0).to(tl.float32)
        if NORMS:
            shrink = 1 / tl.sqrt(tl.sum(x * x, 0) / D + eps)
            scale_ptr = q_scale_ptr if is_query else k_scale_ptr
            x = x * shrink * tl.load(scale_ptr + d, mask=mask, other=0.0)
            y = y * shrink * tl.load(scale_ptr + other_d, mask=in_pair, other=0.0)
        if TURNS_QUERIES or not is_query:
            angle = token * E + tl.where(d < E, d, d - E)
            cos = tl.load(cos_ptr + angle, mask=in_pair, other=1.0)
            sin = tl.load(sin_ptr + angle, mask=in_pair, other=0.0)
            x = tl.where(d < E, x * cos - y * sin, x * cos + y * sin)
        own = x.to(own.dtype)
        if is_query:
            tl.store(q_ptr + (token * num_queries + head) * D + d, own, mask=mask)
        else:
            to_ptr = k_ptr + page * k_sp + (head - num_queries) * k_sr + offset * k_ss
            tl.store(to_ptr + d * k_sd, own, mask=mask)
    else:
        to_ptr = v_ptr + page * v_sp + (head - num_queries - num_kv_heads) * v_sr + offset * v_ss
        tl.store(to_ptr + d * v_sd, own, mask=mask)
