"""Native kernel, `native/linear.cpp`: bfloat16 weights, fp32 sums. Letters: T tokens, I inputs, O outputs."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from openm3.kernels.backend import native
from openm3.kernels.memory import Take, allocate, empty

_Words = NDArray[np.int32]
_TILE = 1024

# What becomes of a sum, `Output` in native/linear.h.
_BFLOAT16, _FLOAT32, _ADDED, _GATED = range(4)


def pack(*weights_OI: Tensor, gated: bool = False, take: Take = allocate) -> Tensor:
    """The layout of the kernel: panels of outputs, in each the pairs of inputs one after the other.

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
    places = (out[0::2], out[1::2]) if gated else out.split(counts)
    for given, place in zip(pairs, places, strict=True):
        _transpose(given.numpy(), place.numpy())
    return out.view(torch.bfloat16)


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


def linear(
    x_TI: Tensor, packed: Tensor, num_outputs: int, *, exact: bool, gated: bool, add_to: Tensor | None
) -> Tensor:
    """`[T, O]`, rounded to bfloat16 unless `exact` or added to an fp32 tensor."""
    if x_TI.shape[1] % 2:
        x_TI = F.pad(x_TI, (0, 1))
    elif x_TI.stride(1) != 1:
        x_TI = x_TI.contiguous()
    num_rows, num_inputs = x_TI.shape
    if add_to is None:
        out_TO = torch.empty((num_rows, num_outputs), dtype=torch.float32 if exact else torch.bfloat16)
        output = _GATED if gated else _FLOAT32 if exact else _BFLOAT16
    else:
        out_TO, output = add_to, _ADDED
    native().linear(
        packed.data_ptr(),
        x_TI.data_ptr(),
        out_TO.data_ptr(),
        x_TI.stride(0),
        out_TO.stride(0),
        num_rows,
        num_inputs,
        num_outputs,
        output,
        torch.get_num_threads(),
    )
    return out_TO
