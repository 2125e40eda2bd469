"""Memory of a cache on the CPU: a mapping of its own for every tensor, so that a page of the system holds one alone."""

from __future__ import annotations

import ctypes
import math
import mmap
import os

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


def can_map(part: Tensor, offset: int) -> bool:
    """Whether `map_file` can: memory and place in the file begin and end with pages of the system."""
    return not (part.data_ptr() % mmap.PAGESIZE or part.nbytes % mmap.PAGESIZE or offset % mmap.PAGESIZE)


def map_file(part: Tensor, fileno: int, offset: int) -> None:
    """Puts a file's bytes in the place of a part of a tensor of an `Arena`.

    They are read when they are first touched, and writing to them changes the tensor alone. Of what is not yet
    touched, the file must keep its length: nobody may write to it any more, deleting it is harmless.

    Raises:
        OSError: the system can't.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    where = libc.mmap(
        part.data_ptr(), part.nbytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | _MAP_FIXED, fileno, offset
    )
    if where != part.data_ptr():
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


_MAP_FIXED = 0x10  # on Linux and macOS
