"""Linear layers for inference. Letters: T tokens, I inputs, O outputs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class PackedLinear:
    """y = x [W_1; W_2; ...]^T: one or more weights that share their input, stacked and laid out once.

    With oneDNN in bfloat16 the weights take the layout of its matrix kernels, which reads them about 1.5 times as
    fast for a single token (LOG.md) and gives the same bits, for any number of rows. Elsewhere the product is torch's.

    Args:
        weights_OI: `[O, I]` each, of one dtype.
        exact: return the fp32 product instead of one rounded to the weights' dtype. oneDNN through torch rounds its
            result, so a second pass computes product - result, which is the rounding error, and the sum of both
            is the product. Worth it for logits, where bf16 leaves steps of 0.125 at values of 16 to 32.

    Attributes:
        layout: "onednn" or "plain".
    """

    def __init__(self, *weights_OI: Tensor, exact: bool = False) -> None:
        if len({w.shape[1] for w in weights_OI}) != 1:
            raise ValueError(f"weights_OI: expected one input size, got {[list(w.shape) for w in weights_OI]}")
        weight_OI = torch.cat(weights_OI) if len(weights_OI) > 1 else weights_OI[0]
        packs = weight_OI.device.type == "cpu" and weight_OI.dtype == torch.bfloat16 and _onednn_has_bf16()
        self.layout = "onednn" if packs else "plain"
        self.exact, self._dtype = exact, weight_OI.dtype
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach()) if packs else weight_OI.detach()

    def __call__(self, x_TI: Tensor) -> Tensor:
        """`[T, all outputs]` of `[T, I]`; x is rounded to the weights' dtype."""
        x_TI = x_TI.to(self._dtype)
        if self.layout == "plain":
            return F.linear(x_TI.float(), self._weight.float()) if self.exact else F.linear(x_TI, self._weight)
        out_TO: Tensor = torch.ops.mkldnn._linear_pointwise(x_TI, self._weight, None, "none", [], "")
        if not self.exact:
            return out_TO
        lost_TO: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x_TI, -out_TO, self._weight, None, "add")
        return out_TO.float() + lost_TO.float()


def _onednn_has_bf16() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
