"""MXFP8 weights: E4M3 values that share a power of two with their neighbours (OCP Microscaling Formats 1.0).

Letters: O outputs, I inputs, B blocks of 32 inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 32
# Of a value, with its share of the scale.
BITS = 8 + 8 / BLOCK


@dataclass(frozen=True)
class MXFP8Weight:
    """A quantised matrix.

    Attributes:
        values_OI: float8_e4m3fn `[O, I]`.
        scales_OB: uint8 `[O, I / 32]`, UE8M0: 2^(s - 127); 255 is NaN.

    Raises:
        ValueError: a shape or dtype is wrong.
    """

    values_OI: Tensor
    scales_OB: Tensor

    def __post_init__(self) -> None:
        values, scales = self.values_OI, self.scales_OB
        if values.dtype != torch.float8_e4m3fn or scales.dtype != torch.uint8:
            raise ValueError(f"expected float8_e4m3fn values and uint8 scales, got {values.dtype} and {scales.dtype}")
        if values.ndim != 2 or values.shape[1] % BLOCK or scales.shape != (len(values), values.shape[1] // BLOCK):
            raise ValueError(
                f"expected a scale for every {BLOCK} values of a row, got {list(scales.shape)} for {list(values.shape)}"
            )

    @property
    def shape(self) -> torch.Size:
        return self.values_OI.shape

    def __len__(self) -> int:
        return len(self.values_OI)

    def dequantise(self, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """`[O, I]` of `dtype`; exact in bfloat16 and float32 but for scales below 2^-118."""
        scales_OB = self.scales_OB.view(torch.float8_e8m0fnu).to(dtype)
        return self.values_OI.to(dtype).unflatten(1, (-1, BLOCK)).mul_(scales_OB[..., None]).flatten(1)


def quantise(weight_OI: Tensor) -> MXFP8Weight:
    """The nearest values, with the scale that brings the largest of a block just under E4M3's 448.

    The scale is 2^ceil(log2(largest / 448)), so nothing is clipped.
    """
    blocks_OBK = weight_OI.float().unflatten(1, (-1, BLOCK))
    largest_OB = blocks_OBK.abs().amax(-1).clamp(min=2.0**-120)
    exponent_OB = torch.ceil(torch.log2(largest_OB / torch.finfo(torch.float8_e4m3fn).max)).clamp(-127, 127)
    values_OBK = blocks_OBK * torch.exp2(-exponent_OB)[..., None]
    return MXFP8Weight(values_OBK.flatten(1).to(torch.float8_e4m3fn), (exponent_OB + 127).to(torch.uint8))
