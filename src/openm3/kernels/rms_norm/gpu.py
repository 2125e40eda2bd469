"""Triton kernel: a row is read once. Letters as in `op.py`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from openm3.kernels.gpu_shape import power_of_2


def rms_norm(x_TC: Tensor, weight_C: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    x_TC, weight_C = x_TC.contiguous(), weight_C.contiguous()
    (num_tokens, size), out_TC = x_TC.shape, torch.empty(x_TC.shape, dtype=dtype, device=x_TC.device)
    if num_tokens:
        warps = 4 if size <= 4096 else 8
        _norm_kernel[(num_tokens,)](x_TC, weight_C, out_TC, size, eps, BC=power_of_2(size), num_warps=warps)
    return out_TC


@triton.jit
def _norm_kernel(x_ptr, weight_ptr, out_ptr, size, eps, BC: tl.constexpr):
    row, c = tl.program_id(0).to(tl.int64) * size, tl.arange(0, BC)
    x = tl.load(x_ptr + row + c, mask=c < size, other=0.0)
    scale = tl.rsqrt(tl.sum(x * x, 0) / size + eps)
    out = x * scale * tl.load(weight_ptr + c, mask=c < size, other=0.0)
    tl.store(out_ptr + row + c, out.to(out_ptr.dtype.element_ty), mask=c < size)
