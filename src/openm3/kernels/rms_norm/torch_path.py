"""torch's fused operation. Letters as in `op.py`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def rms_norm(x_TC: Tensor, weight_C: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    return F.rms_norm(x_TC, weight_C.shape, weight_C, eps).to(dtype)
