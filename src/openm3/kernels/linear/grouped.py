"""Weights of 8 or 4 bits: groups of neighbours share a scale, and of 4 bits an offset, as in GGUF's Q8_0 and Q4_1.

Letters: O outputs, I inputs, K bytes of a row's codes, G groups of 32 inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 32
# Bits of a value with its share of the group's numbers, by the bits of its code.
PACKED_BITS = {4: 4 + 2 * 16 / GROUP, 8: 8 + 16 / GROUP}


@dataclass(frozen=True)
class GroupedWeight:
    """A quantised matrix: a weight is scale * code, or scale * code + offset.

    Attributes:
        codes_OK: 8 bits: int8 `[O, I]`. 4 bits: uint8 `[O, I / 2]`; of the 16 bytes of a group, byte j holds input j in
            its low bits and input 16 + j in its high ones.
        scales_OG: float16 `[O, I / 32]`.
        offsets_OG: float16 like `scales_OG` where codes have 4 bits, else None.

    Raises:
        ValueError: a shape or dtype is wrong.
    """

    codes_OK: Tensor
    scales_OG: Tensor
    offsets_OG: Tensor | None = None

    def __post_init__(self) -> None:
        codes, numbers = self.codes_OK, [t for t in (self.scales_OG, self.offsets_OG) if t is not None]
        expected = torch.int8 if self.bits == 8 else torch.uint8
        if codes.dtype != expected or any(t.dtype != torch.float16 for t in numbers):
            raise ValueError(
                f"expected {expected} codes and float16 numbers, got {codes.dtype}, {[t.dtype for t in numbers]}"
            )
        groups = (len(codes), self.shape[1] // GROUP) if codes.ndim == 2 else ()
        if codes.ndim != 2 or self.shape[1] % GROUP or any(t.shape != groups for t in numbers):
            raise ValueError(
                f"expected a scale for every {GROUP} values of a row, got {list(self.scales_OG.shape)} for codes "
                f"{list(codes.shape)} of {self.bits} bits"
            )

    @property
    def bits(self) -> int:
        """Of a code: 8 or 4."""
        return 8 if self.offsets_OG is None else 4

    @property
    def shape(self) -> torch.Size:
        rows, num_bytes = self.codes_OK.shape
        return torch.Size((rows, num_bytes * 8 // self.bits))

    def __len__(self) -> int:
        return len(self.codes_OK)

    def each(self, change: Callable[[Tensor], Tensor]) -> GroupedWeight:
        """With all its tensors changed: in their rows, or where they lie."""
        offsets = self.offsets_OG
        return GroupedWeight(
            change(self.codes_OK), change(self.scales_OG), None if offsets is None else change(offsets)
        )

    def columns(self, start: int, stop: int) -> GroupedWeight:
        """Inputs `start` to `stop` - 1.

        Raises:
            ValueError: no whole groups.
        """
        if start % GROUP or stop % GROUP:
            raise ValueError(f"can't be split within its groups of {GROUP} values")
        num_columns = self.shape[1]

        def part(tensor: Tensor) -> Tensor:
            each = num_columns // tensor.shape[1]
            return tensor[:, start // each : stop // each]

        return self.each(part)

    def dequantise(self, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """`[O, I]`, computed in fp32 and rounded to `dtype`."""
        scales_OG1 = self.scales_OG.float()[..., None]
        if self.offsets_OG is None:
            weight_OGK = self.codes_OK.float().unflatten(1, (-1, GROUP)) * scales_OG1
        else:
            bytes_OGK = self.codes_OK.unflatten(1, (-1, GROUP // 2))
            codes_OGK = torch.cat((bytes_OGK & 15, bytes_OGK >> 4), dim=-1)
            weight_OGK = codes_OGK.float() * scales_OG1 + self.offsets_OG.float()[..., None]
        return weight_OGK.flatten(1).to(dtype)


def quantise(weight_OI: Tensor) -> GroupedWeight:
    """The nearest 8-bit values; the largest of a group becomes 127 or just below, so that nothing is clipped.

    Raises:
        ValueError: a row is no whole number of groups, or a value is too large for a float16 scale.
    """
    if weight_OI.shape[1] % GROUP:
        raise ValueError(f"weight_OI: expected rows of whole groups of {GROUP}, got {list(weight_OI.shape)}")
    groups_OGK = weight_OI.float().unflatten(1, (-1, GROUP))
    wanted_OG1 = groups_OGK.abs().amax(-1, keepdim=True) / 127
    scales_OG1 = wanted_OG1.half()
    scales_OG1.view(torch.int16).add_(scales_OG1 < wanted_OG1)  # the next larger one
    if bool(scales_OG1.isinf().any()):
        raise ValueError(f"weight_OI: its largest value {float(weight_OI.abs().max())} has no float16 scale")
    codes_OGK = (groups_OGK / scales_OG1.float()).nan_to_num_().round_()
    return GroupedWeight(codes_OGK.to(torch.int8).flatten(1), scales_OG1[..., 0])
