"""Triton kernel: index keys of full pages in 8 bits with error bounds; the proof is in native/block_bounds.h.

The tensor cores of a GPU add products up in fp32 with truncation, which at most doubles the error of each addition and
of what is aligned before it; the slack of the proof, sixteen times the error of a plain sum, covers that too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl
from torch import Tensor

from openm3.kernels.gpu_shape import power_of_2
from openm3.kernels.paged import PagedBatch

if TYPE_CHECKING:
    from openm3.kernels.select_blocks.quantised import QuantisedIndex

_LONGER = tl.constexpr(1.001)
_FLOOR = tl.constexpr(2.0**-50)


def quantise_keys(index: QuantisedIndex, cache_PXSC: Tensor, batch: PagedBatch) -> None:
    """Quantises the pages that this step's tokens, written to the cache already, have filled."""
    if cache_PXSC.stride(3) != 1:
        cache_PXSC = cache_PXSC.contiguous()
    on = batch.on(cache_PXSC.device)
    _, key_heads, page_size, head_size = cache_PXSC.shape
    most = max(-(-span.num_queries // page_size) for span in batch.spans)  # that a sequence fills
    _quantise_kernel[(len(batch.spans), most, key_heads)](
        cache_PXSC,
        index.keys_PXSC,
        index.centre_PXC,
        index.bounds_PX4,
        on.query_start,
        on.context_len,
        on.page_table,
        on.page_table.stride(0),
        *cache_PXSC.stride()[:3],
        S=page_size,
        C=head_size,
        BS=power_of_2(page_size),
        BC=power_of_2(head_size),
        num_warps=8,
    )


@triton.jit
def error_length(square):
    """At least the Euclidean length whose computed square this is; infinite for NaN."""
    length = tl.sqrt(square) * _LONGER + _FLOOR
    return tl.where(length < float("inf"), length, float("inf"))


@triton.jit
def least_scale(largest, length):
    """The scale at which `largest` becomes 127; 0, which makes all bytes zero, where it is too small or unbounded."""
    return tl.where((largest > _FLOOR) & (length < float("inf")), largest / 127, 0.0)


@triton.jit
def rounded(x, scale):
    """int8: x / scale."""
    level = tl.where(scale > 0, x / tl.where(scale > 0, scale, 1.0), 0.0)
    return (level + tl.where(level < 0, -0.5, 0.5)).to(tl.int8)


@triton.jit
def _quantise_kernel(
    k_ptr,
    bytes_ptr,
    centre_ptr,
    bounds_ptr,
    start_ptr,
    context_ptr,
    table_ptr,
    table_stride,
    k_sp,
    k_sx,
    k_ss,
    S: tl.constexpr,
    C: tl.constexpr,
    BS: tl.constexpr,
    BC: tl.constexpr,
):
    sequence, x, key_heads = tl.program_id(0), tl.program_id(2), tl.num_programs(2)
    context = tl.load(context_ptr + sequence)
    queries = tl.load(start_ptr + sequence + 1) - tl.load(start_ptr + sequence)
    block = (context - queries) // S + tl.program_id(1)
    if block < context // S:
        page = tl.load(table_ptr + sequence * table_stride + block).to(tl.int64)
        s, c = tl.arange(0, BS), tl.arange(0, BC)
        mask = (s < S)[:, None] & (c < C)[None, :]
        where = page * k_sp + x * k_sx + s[:, None] * k_ss + c[None, :]
        k = tl.load(k_ptr + where, mask=mask, other=0.0).to(tl.float32)
        # Any centre will do; the mean, rounded to the dtype that it is stored in, leaves the least to quantise.
        centre = tl.sum(k * (1.0 / S), 0).to(centre_ptr.dtype.element_ty)
        at = page * key_heads + x
        tl.store(centre_ptr + at * C + c, centre, mask=c < C)
        centre = centre.to(tl.float32)
        longest = tl.max(error_length(tl.sum(k * k, 1)), 0)
        longest = tl.maximum(longest, error_length(tl.sum(centre * centre, 0)))
        k = tl.where(mask, k - centre[None, :], 0.0)
        scale = least_scale(tl.max(tl.max(tl.abs(k), 1), 0), longest)
        levels = rounded(k, scale)
        kept = levels.to(tl.float32) * scale
        lost = k - kept
        tl.store(bytes_ptr + at * (S * C) + s[:, None] * C + c[None, :], levels, mask=mask)
        tl.store(bounds_ptr + at * 4, scale)
        tl.store(bounds_ptr + at * 4 + 1, tl.max(error_length(tl.sum(lost * lost, 1)), 0))
        tl.store(bounds_ptr + at * 4 + 2, tl.max(error_length(tl.sum(kept * kept, 1)), 0))
        tl.store(bounds_ptr + at * 4 + 3, longest)
