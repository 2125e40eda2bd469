"""Linear layers that share an input: separate parameters for checkpoints and training, one product for inference."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openm3.kernels.linear import MXFP8Weight, PackedLinear


class FusedLinear:
    """Computes several `nn.Linear` of one input at once.

    Not a module: the parts are registered by their owner under the names that the checkpoint gives them. `pack`
    replaces their weights by one `PackedLinear`; after it the parts have no parameters of their own.
    """

    def __init__(self, *parts: nn.Linear, gated: bool = False) -> None:
        self._parts, self._gated = parts, gated
        self._packed: PackedLinear | None = None

    def pack(self, *, exact: bool = False, backend: str | None = None) -> None:
        """Lays the weights out for inference and lets the separate ones go; `exact` gives fp32 outputs."""
        self._packed = PackedLinear(*map(held_weight, self._parts), exact=exact, gated=self._gated, backend=backend)
        for part in self._parts:
            release(part)

    def __call__(self, x_TI: Tensor, *, add_to: Tensor | None = None) -> Tensor:
        """The parts' outputs, one after the other in the last dimension; x is rounded to the weights' dtype.

        Where `gated`, silu of the first part times the second. `add_to`, fp32, is added; it may be changed in place.
        """
        if self._packed is not None:
            return self._packed(x_TI, add_to=add_to)
        outputs = [part(x_TI.to(part.weight.dtype)) for part in self._parts]
        out_TO = F.silu(outputs[0]) * outputs[1] if self._gated else torch.cat(outputs, dim=-1)
        return out_TO if add_to is None else add_to + out_TO


def held_weight(part: nn.Linear) -> Tensor | MXFP8Weight:
    """The weight as it was loaded: quantised where scales stand beside it."""
    scales = getattr(part, "weight_scale", None)
    return part.weight if scales is None else MXFP8Weight(part.weight.detach(), scales)


def release(part: nn.Linear) -> None:
    """Lets the weight go once it is laid out elsewhere."""
    part.weight = None  # type: ignore[assignment]
    part.weight_scale = None  # type: ignore[assignment]
