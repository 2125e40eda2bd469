"""Linear layers that share an input: separate parameters for checkpoints and training, one product for inference."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openm3.kernels.linear import PackedLinear, Weight
from openm3.kernels.memory import Take


class Linear(nn.Linear):
    """Draws no random numbers where its weight has no memory: torch is slow at it, and experts are thousands."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class Embedding(nn.Embedding):
    """The same: torch would import its decompositions for it, most of a second."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class FusedLinear:
    """Computes several `nn.Linear` of one input at once.

    Not a module: the parts are registered by their owner under the names that the checkpoint gives them. `pack`
    replaces their weights by one `PackedLinear`; after it the parts have no parameters of their own. Once packed,
    `exact` gives fp32 outputs.
    """

    def __init__(self, *parts: nn.Linear, gated: bool = False, exact: bool = False) -> None:
        self.parts, self._gated, self._exact = parts, gated, exact
        self.packed: PackedLinear | None = None

    def pack(self, *weights_OI: Weight, backend: str | None = None, take: Take | None = None) -> None:
        """Lays out the parts' weights for inference, see `PackedLinear`; the parts then have none of their own."""
        self.packed = PackedLinear(*weights_OI, exact=self._exact, gated=self._gated, backend=backend, take=take)
        for part in self.parts:
            part.weight = None  # type: ignore[assignment]

    def __call__(self, x_TI: Tensor, *, add_to: Tensor | None = None) -> Tensor:
        """The parts' outputs, one after the other in the last dimension; x is rounded to the weights' dtype.

        Where `gated`, silu of the first part times the second. `add_to`, fp32, is added; it may be changed in place.
        """
        if self.packed is not None:
            return self.packed(x_TI, add_to=add_to)
        outputs = [part(x_TI.to(part.weight.dtype)) for part in self.parts]
        out_TO = F.silu(outputs[0]) * outputs[1] if self._gated else torch.cat(outputs, dim=-1)
        return out_TO if add_to is None else add_to + out_TO
