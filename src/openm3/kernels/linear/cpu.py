"""Native kernel, `native/linear.cpp`: bfloat16 weights, fp32 sums. Letters: T tokens, I inputs, O outputs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from openm3.kernels.backend import native


def pack(weight_OI: Tensor) -> Tensor:
    """The layout of the kernel: panels of outputs, in each the pairs of inputs one after the other."""
    num_outputs, num_inputs = weight_OI.shape
    panel: int = native().PANEL
    padded = F.pad(weight_OI, (0, num_inputs % 2, 0, -num_outputs % panel))
    return padded.view(-1, panel, padded.shape[1] // 2, 2).transpose(1, 2).contiguous()


def linear(x_TI: Tensor, packed: Tensor, num_outputs: int, *, exact: bool) -> Tensor:
    """`[T, O]`: fp32 where `exact`, else rounded to bfloat16."""
    if x_TI.shape[1] % 2:
        x_TI = F.pad(x_TI, (0, 1))
    elif x_TI.stride(1) != 1:
        x_TI = x_TI.contiguous()
    num_rows, num_inputs = x_TI.shape
    out_TO = torch.empty((num_rows, num_outputs), dtype=torch.float32 if exact else torch.bfloat16)
    native().linear(
        packed.data_ptr(),
        x_TI.data_ptr(),
        out_TO.data_ptr(),
        x_TI.stride(0),
        num_outputs,
        num_rows,
        num_inputs,
        num_outputs,
        int(exact),
        torch.get_num_threads(),
    )
    return out_TO
