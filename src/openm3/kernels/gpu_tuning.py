"""How kernels are launched on a class of GPUs: measured once, kept here as data, never searched for at run time."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Launch:
    """Rows of a tile, programs for each multiprocessor, warps of a program, tiles of keys in flight."""

    rows: int
    programs: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Tuning:
    """The launches of one class of GPUs.

    Attributes:
        scan_few, scan_many: block scores of few queries (a decode step) and of many.
        bound_few: bounds of them from keys of 8 bits.
        dense_few, dense_many: attention over all tokens.
        sparse_few, sparse_many: attention over chosen blocks, by query.
        by_block: the same, by block; a block's queries are shared out to so many programs for each multiprocessor.
        by_block_readers: queries that must read a block on average for that to be faster.
    """

    scan_few: Launch = Launch(16, 3, 4, 2)
    scan_many: Launch = Launch(128, 4, 4, 2)
    bound_few: Launch = Launch(16, 3, 4, 2)
    dense_few: Launch = Launch(16, 0, 4, 2)
    dense_many: Launch = Launch(64, 0, 4, 2)
    sparse_few: Launch = Launch(16, 0, 4, 1)
    sparse_many: Launch = Launch(16, 0, 4, 1)
    by_block: Launch = Launch(64, 16, 4, 1)
    by_block_readers: int = 4


# By compute capability, the first number; for others the values above, which fit 100 KB of shared memory.
_TUNED = {
    9: Tuning(  # H100 and H200, LOG.md
        scan_few=Launch(16, 3, 4, 3),
        scan_many=Launch(128, 4, 8, 2),
        bound_few=Launch(16, 3, 4, 5),
        dense_few=Launch(16, 0, 4, 3),
        dense_many=Launch(128, 0, 8, 3),
        sparse_few=Launch(16, 0, 4, 2),
        sparse_many=Launch(16, 0, 4, 2),
    ),
}


@functools.cache
def tuning(device: torch.device) -> Tuning:
    """The launches for a device."""
    if device.type != "cuda":
        return Tuning()
    return _TUNED.get(torch.cuda.get_device_capability(device)[0], Tuning())


def origin(device: torch.device) -> str:
    """Where they come from, for people."""
    tuned = torch.cuda.get_device_capability(device)[0] in _TUNED
    return "tuned for it" if tuned else "not measured on its class: launches that fit everywhere"
