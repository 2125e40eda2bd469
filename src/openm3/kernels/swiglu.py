"""The activation of M3's MLPs and experts. Letters: T tokens, I inner size."""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.config import SwigluOAI


def swiglu_oai(gate_TI: Tensor, up_TI: Tensor, numbers: SwigluOAI) -> Tensor:
    """(clamp(up, ±limit) + beta) * g * sigmoid(alpha * g) with g = min(gate, limit), fp32.

    Source: `swiglu_alpha` and `swiglu_limit` of the published config.json; the form is that of gpt-oss
    (arXiv 2508.10925).
    """
    gate = gate_TI.float().clamp(max=numbers.swiglu_limit)
    up = up_TI.float().clamp(-numbers.swiglu_limit, numbers.swiglu_limit)
    sigmoid = torch.sigmoid(gate * numbers.swiglu_alpha)
    if gate.requires_grad:  # its gradient needs what would be overwritten
        return sigmoid * gate * (up + numbers.swiglu_beta)
    return sigmoid.mul_(gate).mul_(up.add_(numbers.swiglu_beta))
