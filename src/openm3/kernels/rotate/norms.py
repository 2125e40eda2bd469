"""The norms of the heads of queries and keys."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class HeadNorms:
    """RMSNorm (arXiv 1910.07467) of each head by itself.

    Attributes:
        q_scale_D, k_scale_D: float32: what normed queries and keys are multiplied by.
        eps: of both.
    """

    q_scale_D: Tensor
    k_scale_D: Tensor
    eps: float
