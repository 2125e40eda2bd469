"""Triton kernel: a head of a token goes to its slot. Letters as in `op.py`."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from openm3.kernels.gpu_shape import power_of_2
from openm3.kernels.paged import PagedBatch


def write_cache(new_THD: Tensor, cache_PHSD: Tensor, batch: PagedBatch) -> None:
    num_tokens, num_heads, size = new_THD.shape
    slots, strides = batch.on(cache_PHSD.device).slots, (*new_THD.stride(), *cache_PHSD.stride())
    _write_kernel[(num_tokens, num_heads)](
        new_THD, cache_PHSD, *slots, *strides, D=size, BD=power_of_2(size), num_warps=1
    )


@triton.jit
def _write_kernel(
    new_ptr,
    cache_ptr,
    page_ptr,
    offset_ptr,
    n_st,
    n_sh,
    n_sd,
    c_sp,
    c_sh,
    c_ss,
    c_sd,
    D: tl.constexpr,
    BD: tl.constexpr,
):
    token, head, d = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, BD)
    to_ptr = cache_ptr + tl.load(page_ptr + token) * c_sp + head * c_sh + tl.load(offset_ptr + token) * c_ss
    x = tl.load(new_ptr + token * n_st + head * n_sh + d * n_sd, mask=d < D, other=0.0)
    tl.store(to_ptr + d * c_sd, x, mask=d < D)
