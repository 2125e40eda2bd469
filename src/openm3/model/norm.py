"""RMSNorm (arXiv 1910.07467), of Llama and of Gemma. T tokens, C size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openm3.config import ModelConfig
from openm3.kernels.rms_norm import rms_norm


class RMSNorm(nn.Module):
    """x / sqrt(mean of x² + eps), scaled by `weight`, or by 1 + `weight` where `use_gemma_norm`."""

    def __init__(self, size: int, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.rms_norm_eps
        self.weight = nn.Parameter(torch.zeros(size) if config.use_gemma_norm else torch.ones(size))
        self._offset = 1.0 if config.use_gemma_norm else 0.0

    def pack(self) -> None:
        """Adds the 1 to the weight, for inference."""
        self.weight = nn.Parameter(self.scale_C.detach(), requires_grad=False)
        self._offset = 0.0

    @property
    def scale_C(self) -> Tensor:
        """What the normed values are multiplied by, fp32."""
        return self.weight + self._offset if self._offset else self.weight

    def forward(self, x_TC: Tensor, dtype: torch.dtype, backend: str) -> Tensor:
        """`[T, C]` of `dtype`, by the kernel; x is fp32."""
        return rms_norm(x_TC, self.scale_C, self.eps, dtype, backend=backend)
