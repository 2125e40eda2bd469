"""The definition. Letters as in `op.py`."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x_TC: Tensor, weight_C: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    return (x_TC / (x_TC.square().mean(-1, keepdim=True) + eps).sqrt() * weight_C).to(dtype)
