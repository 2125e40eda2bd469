"""Linear layers for inference. Letters: T tokens, I inputs, O outputs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from openm3.kernels.backend import choose
from openm3.kernels.linear import cpu
from openm3.kernels.linear.grouped import GroupedWeight
from openm3.kernels.linear.mxfp8 import MXFP8Weight
from openm3.kernels.memory import Take, allocate, empty, place

Weight = Tensor | MXFP8Weight | GroupedWeight


class PackedLinear:
    """y = x [W_1; W_2; ...]^T: one or more weights that share their input, stacked and laid out once.

    In bfloat16 on a CPU the native kernel, or else oneDNN, has a layout of its own, in which a single token reads the
    weights about 1.5 times as fast (LOG.md) and a row gives the same bits for any number of rows. Elsewhere the
    product is torch's.

    Args:
        weights_OI: `[O, I]` each, of one dtype. Where one is an `MXFP8Weight`, all stay as they are, and every call
            dequantises to bfloat16. `GroupedWeight`s stay as they are where all are of one kind and the native kernel
            takes them: a call reads half or a third of the bytes and gives the bits that their bfloat16 numbers give.
            Elsewhere they are dequantised here.
        exact: return the fp32 product instead of one rounded to the weights' dtype. oneDNN through torch rounds its
            result, so a second pass computes product - result, which is the rounding error, and the sum of both
            is the product. Worth it for logits, where bf16 leaves steps of 0.125 at values of 16 to 32.
        gated: of two weights of one shape, return silu(x W_1^T) * (x W_2^T) (SwiGLU, arXiv 2002.05202).
        backend: see `kernels/backend.py`.
        take: where the weights are laid out, so that the given ones are free again; without it a plain layout of one
            weight is that weight.

    Attributes:
        layout: "native", "native int8", "native int4", "onednn", "plain" or "mxfp8".
        num_inputs, num_outputs: of a row.
        dtype: of the inputs that it computes with.
    """

    def __init__(
        self,
        *weights_OI: Weight,
        exact: bool = False,
        gated: bool = False,
        backend: str | None = None,
        take: Take | None = None,
    ) -> None:
        if len({w.shape[1] for w in weights_OI}) != 1:
            raise ValueError(f"weights_OI: expected one input size, got {[list(w.shape) for w in weights_OI]}")
        if gated and (exact or len(weights_OI) != 2 or weights_OI[0].shape != weights_OI[1].shape):
            raise ValueError(f"gated: expected two weights of one shape, got {[list(w.shape) for w in weights_OI]}")
        self.exact, self.gated, self.num_inputs = exact, gated, weights_OI[0].shape[1]
        self.num_outputs = sum(len(w) for w in weights_OI) // (2 if gated else 1)
        self._quantised: tuple[Tensor | MXFP8Weight, ...] = ()
        grouped = [w for w in weights_OI if isinstance(w, GroupedWeight)]
        alike = len(grouped) == len(weights_OI) and len({w.bits for w in grouped}) == 1
        if alike and choose(backend) == "native":
            self.layout, self.dtype = f"native int{grouped[0].bits}", torch.bfloat16
            self.packed = cpu.pack_grouped(*grouped, gated=gated, take=take or allocate)
            return
        wide = [w.dequantise() if isinstance(w, GroupedWeight) else w for w in weights_OI]
        dense = [w.detach() for w in wide if isinstance(w, Tensor)]
        if len(dense) < len(wide):
            self._quantised = tuple(wide if take is None else (_placed(w, take) for w in wide))
            self.layout, self.dtype = "mxfp8", torch.bfloat16
            return
        self.dtype = dense[0].dtype
        self.layout = _layout(dense[0], choose(backend))
        if self.layout == "native":
            self.packed = cpu.pack(*dense, gated=gated, take=take or allocate)
        elif self.layout == "onednn":
            self.packed = torch.ops.mkldnn._reorder_linear_weight(torch.cat(dense) if len(dense) > 1 else dense[0])
        elif take is not None:
            rows = (sum(map(len, dense)), dense[0].shape[1])
            self.packed = torch.cat(dense, out=empty(rows, self.dtype, take))
        else:
            self.packed = torch.cat(dense) if len(dense) > 1 else dense[0]

    @property
    def plain(self) -> Tensor | None:
        """The stacked weights where they lie as they came, else None."""
        return self.packed if self.layout == "plain" else None

    def __call__(self, x_TI: Tensor, *, add_to: Tensor | None = None) -> Tensor:
        """`[T, all outputs]` of `[T, I]`; x is rounded to the weights' dtype.

        `add_to`, fp32 and contiguous, takes the sum with the product in place and is what is returned.
        """
        x_TI = x_TI.to(self.dtype)
        if self.layout in cpu.WEIGHTS:
            return cpu.linear(
                x_TI,
                self.packed,
                self.num_outputs,
                layout=self.layout,
                exact=self.exact,
                gated=self.gated,
                add_to=add_to,
            )
        out_TO = self._product(x_TI)
        if self.gated:
            gate, up = out_TO.chunk(2, dim=-1)
            out_TO = F.silu(gate) * up
        return out_TO if add_to is None else add_to.add_(out_TO)

    def _product(self, x_TI: Tensor) -> Tensor:
        if self._quantised:
            dense = [w.dequantise() if isinstance(w, MXFP8Weight) else w.to(self.dtype) for w in self._quantised]
            out = [F.linear(x_TI.float(), w.float()) if self.exact else F.linear(x_TI, w) for w in dense]
            return torch.cat(out, dim=-1)
        if self.layout == "plain":
            if self.exact and x_TI.is_cuda and self.dtype != torch.float32:
                return torch.mm(x_TI, self.packed.T, out_dtype=torch.float32)  # the product before it is rounded
            return F.linear(x_TI.float(), self.packed.float()) if self.exact else F.linear(x_TI, self.packed)
        out_TO: Tensor = torch.ops.mkldnn._linear_pointwise(x_TI, self.packed, None, "none", [], "")
        if not self.exact:
            return out_TO
        lost_TO: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x_TI, -out_TO, self.packed, None, "add")
        return out_TO.float() + lost_TO.float()


def _placed(weight_OI: Tensor | MXFP8Weight, take: Take) -> Tensor | MXFP8Weight:
    if isinstance(weight_OI, Tensor):
        return place(weight_OI.detach(), take)
    return MXFP8Weight(place(weight_OI.values_OI, take), place(weight_OI.scales_OB, take))


def _layout(weight_OI: Tensor, backend: str) -> str:
    if weight_OI.device.type != "cpu" or weight_OI.dtype != torch.bfloat16 or backend == "triton":
        return "plain"
    if backend == "native":
        return "native"
    has_onednn = torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return "onednn" if has_onednn else "plain"
