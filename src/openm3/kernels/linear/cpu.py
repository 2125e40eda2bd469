"""Native kernel, `native/linear.cpp`: weights in bfloat16 or in 8 or 4 bits, fp32 sums.

Letters: T tokens, I inputs, O outputs; P panels of N outputs, G groups of inputs, K pairs of inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from openm3.kernels.backend import native
from openm3.kernels.linear.grouped import GROUP, GroupedWeight
from openm3.kernels.memory import Take, allocate, empty

_Words = NDArray[np.int32]
_TILE = 1024

# What weights are, and what becomes of a sum: `Weights` and `Output` in native/linear.h.
WEIGHTS = {"native": 0, "native int8": 1, "native int4": 2}
_BFLOAT16, _FLOAT32, _ADDED, _GATED = range(4)


def pack(*weights_OI: Tensor, gated: bool = False, take: Take = allocate) -> Tensor:
    """The layout of bfloat16: panels of outputs, in each the pairs of inputs one after the other.

    The outputs of several weights follow each other; where `gated`, panels of the two take turns.
    """
    panel, num_inputs = native().PANEL, weights_OI[0].shape[1]
    if num_inputs % 2 or any(len(w) % panel for w in weights_OI):
        whole = weights_OI if gated or len(weights_OI) == 1 else (torch.cat(weights_OI),)
        weights_OI = tuple(F.pad(w, (0, num_inputs % 2, 0, -len(w) % panel)) for w in whole)
    # A pair is moved as one number, which numpy does faster than torch, and without threads of its own.
    pairs = [w.contiguous().view(torch.int32).unflatten(0, (-1, panel)) for w in weights_OI]
    counts = [len(p) for p in pairs]
    out = empty((sum(counts), pairs[0].shape[2], panel), torch.int32, take)
    for given, place in zip(pairs, _places(out, counts, gated), strict=True):
        _transpose(given.numpy(), place.numpy())
    return out.view(torch.bfloat16)


def pack_grouped(*weights_OI: GroupedWeight, gated: bool = False, take: Take = allocate) -> Tensor:
    """The layout of weights of 8 or 4 bits, all of one kind: uint8 `[P, G, bytes of a panel's group]`."""
    panel, bits, num_inputs = native().PANEL, weights_OI[0].bits, weights_OI[0].shape[1]
    if any(len(w) % panel for w in weights_OI):
        whole = weights_OI if gated or len(weights_OI) == 1 else (_stacked(weights_OI),)
        weights_OI = tuple(w.each(lambda t: F.pad(t, (0, 0, 0, -len(t) % panel))) for w in whole)
    counts = [len(w) // panel for w in weights_OI]
    numbers = 2 * panel if bits == 8 else 4 * panel
    out = empty((sum(counts), num_inputs // GROUP, numbers + panel * GROUP * bits // 8), torch.uint8, take)
    for weight, place in zip(weights_OI, _places(out, counts, gated), strict=True):
        _lay_out(weight, place.numpy(), panel)
    return out


def _places(out: Tensor, counts: list[int], gated: bool) -> Sequence[Tensor]:
    return (out[0::2], out[1::2]) if gated else out.split(counts)


def _transpose(given: _Words, out: _Words) -> None:
    """`[P, N, K]` to `[P, K, N]`; long rows by way of a tile whose rows don't fall on the same lines of the cache."""
    num_panels, panel, depth = given.shape
    if depth <= _TILE // 4:
        np.copyto(out, given.transpose(0, 2, 1))
        return
    tile = np.empty((panel, _TILE + 16), np.int32)
    for p in range(num_panels):
        for first in range(0, depth, _TILE):
            part = tile[:, : min(_TILE, depth - first)]
            np.copyto(part, given[p, :, first : first + _TILE])
            np.copyto(out[p, first : first + _TILE], part.T)


def _stacked(weights_OI: Sequence[GroupedWeight]) -> GroupedWeight:
    codes, scales = torch.cat([w.codes_OK for w in weights_OI]), torch.cat([w.scales_OG for w in weights_OI])
    offsets = [w.offsets_OG for w in weights_OI if w.offsets_OG is not None]
    return GroupedWeight(codes, scales, torch.cat(offsets) if offsets else None)


def _lay_out(weight: GroupedWeight, out_PGK: NDArray[np.uint8], panel: int) -> None:
    """Fills the panels of one weight; `native/linear.h` has the picture."""
    numbers = [t for t in (weight.scales_OG, weight.offsets_OG) if t is not None]
    for i, given_OG in enumerate(numbers):
        place = out_PGK[:, :, 2 * panel * i : 2 * panel * (i + 1)].view(np.float16)
        np.copyto(place, given_OG.numpy().reshape(len(place), panel, -1).transpose(0, 2, 1))
    # A pair of codes is moved as one number: two bytes, or two of the lower or higher halves of bytes.
    pairs = weight.codes_OK.numpy().view(np.uint16).reshape(len(out_PGK), panel, out_PGK.shape[1], -1)
    pairs_PGKN = pairs.transpose(0, 2, 3, 1)
    place_PGKN = (
        out_PGK[:, :, 2 * panel * len(numbers) :].view(np.uint16).reshape(*pairs_PGKN.shape[:2], GROUP // 2, -1)
    )
    if weight.bits == 8:
        np.copyto(place_PGKN, pairs_PGKN)
        return
    low, high = np.uint16(0x0F0F), np.uint16(0xF0F0)
    eights = pairs_PGKN.reshape(*pairs_PGKN.shape[:3], -1, 2, 8)  # of 16 outputs, the first 8 and the second
    first, second = eights[..., 0, :], eights[..., 1, :]
    halves = place_PGKN.reshape(*place_PGKN.shape[:3], -1, 8)
    halves[:, :, : GROUP // 4] = first & low | (second & low) << 4
    halves[:, :, GROUP // 4 :] = first >> 4 & low | second & high


def output_of(*, exact: bool, gated: bool, adds: bool) -> int:
    """What becomes of a sum, as native code numbers it."""
    return _ADDED if adds else _GATED if gated else _FLOAT32 if exact else _BFLOAT16


def linear(
    x_TI: Tensor,
    packed: Tensor,
    num_outputs: int,
    *,
    layout: str = "native",
    exact: bool,
    gated: bool,
    add_to: Tensor | None,
) -> Tensor:
    """`[T, O]`, rounded to bfloat16 unless `exact` or added to an fp32 tensor."""
    if x_TI.shape[1] % 2:
        x_TI = F.pad(x_TI, (0, 1))
    elif x_TI.stride(1) != 1:
        x_TI = x_TI.contiguous()
    num_rows, num_inputs = x_TI.shape
    out_TO = add_to
    if out_TO is None:
        out_TO = torch.empty((num_rows, num_outputs), dtype=torch.float32 if exact else torch.bfloat16)
    native().linear(
        WEIGHTS[layout],
        packed.data_ptr(),
        x_TI.data_ptr(),
        out_TO.data_ptr(),
        x_TI.stride(0),
        out_TO.stride(0),
        num_rows,
        num_inputs,
        num_outputs,
        output_of(exact=exact, gated=gated, adds=add_to is not None),
        torch.get_num_threads(),
    )
    return out_TO
