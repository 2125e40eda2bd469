"""Sizes of tiles on a GPU."""

from __future__ import annotations

import functools
from typing import Any

import torch

_TILE_BYTES = 32 << 10  # of keys; two or three such tiles of keys and values are in flight
_MOST_KEYS = 128


def power_of_2(number: int, least: int = 1) -> int:
    """The power of two that holds a number."""
    return max(least, 1 << (number - 1).bit_length())


def key_tile(page_size: int, head_size: int, itemsize: int) -> int:
    """Keys of a page that are read at once."""
    fitting = (_TILE_BYTES if itemsize == 2 else _TILE_BYTES // 2) // (itemsize * power_of_2(head_size, 16))
    return max(16, min(power_of_2(page_size, 16), fitting, _MOST_KEYS))


@functools.cache
def num_processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; a few where the interpreter stands in for one."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


@functools.cache
def overlapping(device: torch.device) -> dict[str, Any]:
    """Options with which a kernel starts while the one before it still runs, and then waits for it (from Hopper on)."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < 9:
        return {"OVERLAPS": False}
    return {"OVERLAPS": True, "launch_pdl": True}
