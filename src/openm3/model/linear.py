"""Linear layers that share an input: separate parameters for checkpoints and training, one product for inference."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openm3.kernels.linear import PackedLinear


class FusedLinear:
    """Computes several `nn.Linear` of one input at once.

    Not a module: the parts are registered by their owner under the names that the checkpoint gives them. `pack`
    replaces their weights by one `PackedLinear`; after it the parts have no parameters of their own.
    """

    def __init__(self, *parts: nn.Linear) -> None:
        self._parts = parts
        self._packed: PackedLinear | None = None

    def pack(self, *, exact: bool = False) -> None:
        """Lays the weights out for inference and lets the separate ones go; `exact` gives fp32 outputs."""
        self._packed = PackedLinear(*(part.weight for part in self._parts), exact=exact)
        for part in self._parts:
            part.weight = None  # type: ignore[assignment]

    def __call__(self, x_TI: Tensor) -> Tensor:
        """The parts' outputs, one after the other in the last dimension; x is rounded to the weights' dtype."""
        if self._packed is not None:
            return self._packed(x_TI)
        return torch.cat([part(x_TI.to(part.weight.dtype)) for part in self._parts], dim=-1)
