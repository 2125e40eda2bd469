"""Native kernel, `native/linear.cpp`: bfloat16 weights, fp32 sums. Letters: T tokens, I inputs, O outputs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from openm3.kernels.backend import native

# What becomes of a sum, `Output` in native/linear.h.
_BFLOAT16, _FLOAT32, _ADDED, _GATED = range(4)


def pack(weight_OI: Tensor) -> Tensor:
    """The layout of the kernel: panels of outputs, in each the pairs of inputs one after the other."""
    num_outputs, num_inputs = weight_OI.shape
    panel: int = native().PANEL
    if num_inputs % 2 or num_outputs % panel:
        weight_OI = F.pad(weight_OI, (0, num_inputs % 2, 0, -num_outputs % panel))
    pairs = weight_OI.contiguous().view(torch.int32)  # a pair is moved as one number, twice as fast
    return pairs.view(-1, panel, pairs.shape[1]).transpose(1, 2).contiguous().view(torch.bfloat16)


def pack_gated(gate_OI: Tensor, up_OI: Tensor) -> Tensor:
    """The same of two weights whose panels take turns."""
    return torch.stack((pack(gate_OI), pack(up_OI)), dim=1).flatten(0, 1)


def linear(
    x_TI: Tensor, packed: Tensor, num_outputs: int, *, exact: bool, gated: bool, add_to: Tensor | None
) -> Tensor:
    """`[T, O]`, rounded to bfloat16 unless `exact` or added to an fp32 tensor."""
    if x_TI.shape[1] % 2:
        x_TI = F.pad(x_TI, (0, 1))
    elif x_TI.stride(1) != 1:
        x_TI = x_TI.contiguous()
    num_rows, num_inputs = x_TI.shape
    if add_to is None:
        out_TO = torch.empty((num_rows, num_outputs), dtype=torch.float32 if exact else torch.bfloat16)
        output = _GATED if gated else _FLOAT32 if exact else _BFLOAT16
    else:
        out_TO, output = add_to, _ADDED
    native().linear(
        packed.data_ptr(),
        x_TI.data_ptr(),
        out_TO.data_ptr(),
        x_TI.stride(0),
        out_TO.stride(0),
        num_rows,
        num_inputs,
        num_outputs,
        output,
        torch.get_num_threads(),
    )
    return out_TO
