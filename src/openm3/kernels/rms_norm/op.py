"""Contract of `rms_norm`. Letters: T tokens, C hidden size."""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.kernels import checks
from openm3.kernels.backend import choose
from openm3.kernels.lazy import lazy
from openm3.kernels.rms_norm import cpu, reference, torch_path

_IMPLEMENTATIONS = {
    "triton": lazy("openm3.kernels.rms_norm.gpu", "rms_norm"),
    "native": cpu.rms_norm,
    "torch": torch_path.rms_norm,
    "reference": reference.rms_norm,
}


def rms_norm(x_TC: Tensor, weight_C: Tensor, eps: float, dtype: torch.dtype, *, backend: str = "torch") -> Tensor:
    """x / sqrt(mean of x² over C + eps) * weight (arXiv 1910.07467), computed in fp32.

    Args:
        x_TC: float32 `[T, C]`.
        weight_C: float32 `[C]`.
        eps: added to the mean.
        dtype: of the result.
        backend: see `kernels/backend.py`.

    Raises:
        ValueError: a shape or dtype is wrong.
    """
    checks.check_shape("x_TC", x_TC, (None, None), "T, C")
    checks.check_shape("weight_C", weight_C, (x_TC.shape[1],), "C")
    for name, tensor in (("x_TC", x_TC), ("weight_C", weight_C)):
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name}: expected float32, got {tensor.dtype}")
    return _IMPLEMENTATIONS[choose(backend)](x_TC, weight_C, eps, dtype)
