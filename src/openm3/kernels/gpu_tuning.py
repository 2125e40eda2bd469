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
        dense_few, dense_many: attention over all tokens.
        sparse_few, sparse_many: attention over chosen blocks, by query.
        by_block: the same, by block; its `programs` share a block's queries.
        by_block_readers: queries that must read a block on average for that to be faster.
    """

    scan_few: Launch = Launch(16, 4, 4, 3)
    scan_many: Launch = Launch(256, 4, 8, 3)
    dense_few: Launch = Launch(16, 0, 4, 3)
    dense_many: Launch = Launch(128, 0, 8, 2)
    sparse_few: Launch = Launch(16, 0, 4, 2)
    sparse_many: Launch = Launch(16, 0, 4, 2)
    by_block: Launch = Launch(128, 4, 8, 2)
    by_block_readers: int = 4


# By compute capability, the first number. Ampere and Ada have 100 to 164 KB of shared memory a multiprocessor.
_TUNED = {
    8: Tuning(scan_many=Launch(128, 4, 4, 2), dense_few=Launch(16, 0, 4, 2), by_block=Launch(64, 4, 4, 1)),
    9: Tuning(),
}


@functools.cache
def tuning(device: torch.device) -> Tuning:
    """The launches for a device; those of Hopper where nothing was measured."""
    if device.type != "cuda":
        return Tuning()
    return _TUNED.get(torch.cuda.get_device_capability(device)[0], Tuning())
