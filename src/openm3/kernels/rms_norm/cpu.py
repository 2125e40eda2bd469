"""Native kernel, `native/rms_norm.cpp`. Letters as in `op.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.kernels import native_call
from openm3.kernels.backend import native


def rms_norm(x_TC: Tensor, weight_C: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    x_TC, weight_C = x_TC.contiguous(), weight_C.contiguous()
    out_TC = torch.empty(x_TC.shape, dtype=dtype)
    native().rms_norm(
        native_call.DTYPES[dtype],
        x_TC.data_ptr(),
        weight_C.data_ptr(),
        out_TC.data_ptr(),
        x_TC.shape[0],
        x_TC.shape[1],
        eps,
        torch.get_num_threads(),
    )
    return out_TC
