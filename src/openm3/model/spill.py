"""Keys and values in a file, of which a part is in memory.

The file is mapped and has no name: nobody can delete or cut it, and it goes with the process. Its room on the disk is
reserved at the start, so that a full disk is an error then and not a signal later. The kernels know nothing of it: the
system reads what they touch, and writes it back when it gives the memory to somebody else. What this module does is to
take pages out of the process's memory again, layer by layer, so that the process stays within a budget; until the
system needs that memory, it still has them, and touching one again costs a fraction of reading the disk.

Letters: T packed tokens, R groups, N chosen blocks, P pages.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openm3.errors import InputError
from openm3.kernels.paged import PagedBatch

_DECAY = 0.9  # of a page's heat, each time that its layer is computed
_ZEROS = bytes(1 << 20)


class Spill:
    """The file, and how much of it may be in memory.

    Args:
        folder: where the file is; made when it isn't there.
        budget: bytes that may be in memory between two steps. Within one, the layer that is computed may come on top.
        keeps_keys: whether the model's own keys stay in memory, because every step scans them.

    Raises:
        InputError: the folder can't be used.
    """

    def __init__(self, folder: Path, budget: int, *, keeps_keys: bool = False) -> None:
        self.folder, self.budget, self.keeps_keys = folder, budget, keeps_keys
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder, prefix="openm3-") as file:
                self._fileno = os.dup(file.fileno())
        except OSError as error:
            raise InputError("spill_dir", f"{folder} can't be used: {error.strerror}") from error
        weakref.finalize(self, os.close, self._fileno)
        self._end = 0
        self._num_layers = 0
        self._counter = _Counter()
        self._seen = self._counter.read()

    def layer(self, num_pages: int) -> Residency:
        """For the tensors of one more layer."""
        self._num_layers += 1
        return Residency(self, num_pages)

    def map(self, num_bytes: int) -> mmap.mmap:
        """The next bytes of the file, whose room is reserved.

        Raises:
            InputError: there is no room.
        """
        size = -(-num_bytes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        try:
            _reserve(self._fileno, self._end, size)
        except OSError as error:
            raise InputError(
                "spill_dir",
                f"{self.folder} has no room for more than {self._end / 1e9:.1f} GB of keys and values "
                f"({error.strerror}); name another folder, or ask for a shorter window",
            ) from error
        memory = mmap.mmap(self._fileno, num_bytes, flags=mmap.MAP_SHARED, offset=self._end)
        self._end += size
        return memory

    @property
    def share(self) -> int:
        """Bytes that one layer may hold."""
        return self.budget // max(self._num_layers, 1)

    def grown(self) -> int | None:
        """Bytes by which the process's mapped files have grown in memory since the last call; None: unknown here."""
        now = self._counter.read()
        before, self._seen = self._seen, now
        return None if now is None or before is None else max(now - before, 0)

    def shrunk(self) -> None:
        """Has the next `grown` begin here."""
        self._seen = self._counter.read()


class Residency:
    """What of one layer's keys and values is in memory.

    A page's heat is how often it was chosen, decayed. When the layer holds more than its share, all but the hottest
    pages are taken out of memory.

    Attributes:
        held: bytes in memory, as far as known; at most what there is.
    """

    def __init__(self, spill: Spill, num_pages: int) -> None:
        self.held = 0
        self._spill, self._num_pages = spill, num_pages
        self._memories: list[mmap.mmap] = []
        self._heat_P = np.zeros(num_pages, dtype=np.float32)

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """One of the layer's tensors, zeros; pages come first in its shape."""
        memory = self._spill.map(math.prod(shape) * dtype.itemsize)
        self._memories.append(memory)
        return torch.frombuffer(memory, dtype=dtype).view(shape)

    def settle(self, block_ids_TRN: Tensor | None, batch: PagedBatch) -> None:
        """After the layer was computed: what was chosen gets hotter, and what is too much leaves memory."""
        if block_ids_TRN is not None:
            self._warm(block_ids_TRN.numpy(), batch)
        grown = self._spill.grown()
        self.held = self._size if grown is None else min(self.held + grown, self._size)
        if self.held > self._spill.share:
            self.give_back(keep=self._spill.share // 2)

    def give_back(self, keep: int = 0) -> None:
        """Takes all out of memory but the hottest pages, up to `keep` bytes of them."""
        page_bytes = self._size // self._num_pages
        count = min(keep // page_bytes, self._num_pages)
        kept = np.sort(np.argpartition(-self._heat_P, max(count - 1, 0))[:count])
        for memory in self._memories:
            one = len(memory) // self._num_pages
            # Between the kept ones; only whole pages of the system, which may be larger than ours.
            starts = -(-np.append(0, (kept + 1) * one) // mmap.PAGESIZE) * mmap.PAGESIZE
            stops = np.append(kept * one // mmap.PAGESIZE * mmap.PAGESIZE, len(memory))
            some = starts < stops
            for start, stop in zip(starts[some].tolist(), stops[some].tolist(), strict=True):
                memory.madvise(mmap.MADV_DONTNEED, start, stop - start)
        self.held = count * page_bytes
        self._spill.shrunk()

    @property
    def _size(self) -> int:
        return sum(map(len, self._memories))

    def _warm(self, block_ids_TRN: np.ndarray, batch: PagedBatch) -> None:
        self._heat_P *= _DECAY
        for span in batch.spans:
            ids = block_ids_TRN[span.rows].ravel()
            counts = np.bincount(ids[ids >= 0], minlength=len(span.pages))
            self._heat_P[span.pages.numpy()] += counts / span.num_queries


class _Counter:
    """Bytes of mapped files in this process's memory; None where the system doesn't tell cheaply."""

    def __init__(self) -> None:
        self._fileno: int | None = None
        with suppress(OSError):
            self._fileno = os.open("/proc/self/statm", os.O_RDONLY)
            weakref.finalize(self, os.close, self._fileno)

    def read(self) -> int | None:
        if self._fileno is None:
            return None
        return int(os.pread(self._fileno, 200, 0).split()[2]) * mmap.PAGESIZE


def _reserve(fileno: int, start: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fileno, start, size)
        return
    for offset in range(0, size, len(_ZEROS)):
        piece = _ZEROS[: size - offset]
        if os.pwrite(fileno, piece, start + offset) < len(piece):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
