"""Linear layers one after the other, with the norms between them.

Letters: T tokens, C size of the stream, I inputs and O outputs of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openm3.kernels import checks
from openm3.kernels.backend import native
from openm3.kernels.linear import cpu
from openm3.kernels.linear.op import PackedLinear
from openm3.kernels.rms_norm import rms_norm


@dataclass(frozen=True)
class Link:
    """One layer.

    Attributes:
        linear: its product.
        norm_C: float32; the layer reads the stream, normed with this weight. None: it reads what the link before gave.
        eps: of the norm.
        adds: the product is added to the stream, and is not what the next link reads.
    """

    linear: PackedLinear
    norm_C: Tensor | None = None
    eps: float = 0.0
    adds: bool = False


class Chain:
    """Links that are computed in one call where the native kernel has all of them, else one by one: the same bits.

    Args:
        links: in their order.
        backend: of the norms, see `kernels/backend.py`.

    Attributes:
        is_native: whether it is one call.
    """

    def __init__(self, *links: Link, backend: str) -> None:
        self._links, self._backend = links, backend
        sizes = {link.linear.num_inputs for link in links if link.norm_C is not None}
        sizes |= {link.linear.num_outputs for link in links if link.adds}
        if len(sizes) != 1 or any(link.norm_C is not None and link.norm_C.dtype != torch.float32 for link in links):
            raise ValueError(f"links: expected one size of the stream and float32 norms, got sizes {sorted(sizes)}")
        self._stream_size = sizes.pop()
        self.is_native = all(link.linear.layout in cpu.WEIGHTS and link.linear.num_inputs % 2 == 0 for link in links)
        if self.is_native:
            self._native = native().Chain()
            for link in links:
                self._native.add(*_native_link(link))

    def __call__(self, stream_TC: Tensor, x_TI: Tensor | None = None) -> Tensor:
        """What the last link gives: `[T, O]`, or the stream where that adds to it.

        Args:
            stream_TC: float32, contiguous; changed in place by links that add.
            x_TI: what the first link reads where it has no norm, in the dtype of the weights.

        Raises:
            ValueError: a shape, dtype or layout is wrong.
        """
        checks.check_shape("stream_TC", stream_TC, (None, self._stream_size), "T, C")
        if stream_TC.dtype != torch.float32 or not stream_TC.is_contiguous():
            raise ValueError(f"stream_TC: expected contiguous float32, got {stream_TC.dtype}")
        first, last, num_rows = self._links[0], self._links[-1], len(stream_TC)
        if first.norm_C is None:
            if x_TI is None or x_TI.dtype != first.linear.dtype:
                raise ValueError(f"x_TI: expected {first.linear.dtype}")
            checks.check_shape("x_TI", x_TI, (num_rows, first.linear.num_inputs), "T, I")
        if not self.is_native:
            return self._one_by_one(stream_TC, x_TI)
        out = stream_TC
        if not last.adds:
            dtype = torch.float32 if last.linear.exact else torch.bfloat16
            out = torch.empty((num_rows, last.linear.num_outputs), dtype=dtype)
        x, stride = 0, 0
        if x_TI is not None:
            x_TI = x_TI if x_TI.stride(1) == 1 else x_TI.contiguous()
            x, stride = x_TI.data_ptr(), x_TI.stride(0)
        self._native.run(x, stride, stream_TC.data_ptr(), out.data_ptr(), num_rows, torch.get_num_threads())
        return out

    def _one_by_one(self, stream_TC: Tensor, x_TI: Tensor | None) -> Tensor:
        for link in self._links:
            if link.norm_C is not None:
                x_TI = rms_norm(stream_TC, link.norm_C, link.eps, link.linear.dtype, backend=self._backend)
            assert x_TI is not None, "checked"
            out = link.linear(x_TI, add_to=stream_TC if link.adds else None)
            if not link.adds:
                x_TI = out
        return out


def _native_link(link: Link) -> tuple[float, ...]:
    """What `Chain.add` of native/module.cpp takes; the tensors must stay alive."""
    linear = link.linear
    norm = 0 if link.norm_C is None else link.norm_C.data_ptr()
    output = cpu.output_of(exact=linear.exact, gated=linear.gated, adds=link.adds)
    weights = cpu.WEIGHTS[linear.layout]
    return norm, link.eps, weights, linear.packed.data_ptr(), linear.num_inputs, linear.num_outputs, output
