"""Memory for weights: large stretches from the system, of which pieces are taken."""

from __future__ import annotations

import math
import mmap
import threading
from collections.abc import Callable

import torch
from torch import Tensor

# Gives this many bytes, uint8, aligned for any dtype.
Take = Callable[[int], Tensor]

_CHUNK = 64 << 20
_ALIGNMENT = 64


class Memory:
    """Pieces of a few large mappings; a mapping goes back to the system with the last of its pieces.

    Beside the allocator's own, so that what is freed between long-lived tensors leaves no holes. Threads may share it.
    """

    def __init__(self) -> None:
        self._chunks: list[Tensor] = []
        self._current, self._used = 0, 0
        self._lock = threading.Lock()

    def take(self, num_bytes: int) -> Tensor:
        """uint8 `[num_bytes]`, with anything in it."""
        with self._lock:
            while self._current < len(self._chunks):
                chunk, start = self._chunks[self._current], self._used
                if start + num_bytes <= len(chunk):
                    self._used += -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
                    return chunk[start : start + num_bytes]
                self._current, self._used = self._current + 1, 0
            self._chunks.append(_map(max(num_bytes, _CHUNK)))
            self._used = -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
            return self._chunks[-1][:num_bytes]

    def clear(self) -> None:
        """Gives the same memory out again: no piece taken before may be in use."""
        self._current, self._used = 0, 0


def place(tensor: Tensor, take: Take, dtype: torch.dtype | None = None) -> Tensor:
    """A contiguous copy in memory that is taken, in `dtype` where one is given."""
    return empty(tensor.shape, dtype or tensor.dtype, take).copy_(tensor)


def empty(shape: tuple[int, ...], dtype: torch.dtype, take: Take) -> Tensor:
    """A tensor in memory that is taken."""
    return take(math.prod(shape) * dtype.itemsize).view(dtype).view(shape)


def allocate(num_bytes: int) -> Tensor:
    """Takes from torch's allocator."""
    return torch.empty(num_bytes, dtype=torch.uint8)


def _map(num_bytes: int) -> Tensor:
    # No huge pages: a virtual machine that gives free memory back to its host gets them slowly (LOG.md).
    return torch.frombuffer(mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype=torch.uint8)
