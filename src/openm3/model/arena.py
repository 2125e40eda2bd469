"""Memory of a cache on the CPU: a mapping of its own for every tensor, so that a page of the system holds one alone."""

from __future__ import annotations

import math
import mmap

import torch
from torch import Tensor


class Arena:
    """Gives tensors whose memory the system provides, zeros, page by page when it is first written."""

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Zeros that begin at a page of the system; the memory goes back with the last view of it.

        Raises:
            OSError: the memory can't be had.
        """
        num_bytes = math.prod(shape) * dtype.itemsize
        memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return torch.frombuffer(memory, dtype=dtype).view(shape)
