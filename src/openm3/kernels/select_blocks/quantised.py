"""Index keys of 8 bits with error bounds, beside a cache of index keys: with them long contexts are scanned faster, and
the same blocks are selected. Letters as in `op.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.config import SparseConfig
from openm3.kernels import checks, native_call
from openm3.kernels.backend import choose, native
from openm3.kernels.lazy import lazy
from openm3.kernels.paged import PagedBatch

_LARGEST_HEAD = 1024  # sums of products of bytes are exact in fp32 up to there
_LEAST_ON_GPU = 1 << 18  # tokens; LEAST_BOUNDED in gpu.py
_LEAST_BLOCKS = 8  # for each slot: with fewer, bounds leave too many open; kBoundedBlocks in native/select_blocks.cpp
_SIDE_BY_SIDE = 16  # tokens; kSideBySide in native/byte_peaks.h
_quantise_on_gpu = lazy("openm3.kernels.select_blocks.gpu_quantise", "quantise_keys")
_NUM_BOUNDS = 4  # `PageBounds` in native/select_blocks.h


class QuantisedIndex:
    """The keys of every full page as centre + scale * int8, one scale and centre for a page and head.

        index = QuantisedIndex(index_k_cache)
        rotate_and_write(...); index.update(index_k_cache, batch)  # each step
        select_blocks(..., backend="native", quantised=index)

    The scan of a long context then reads these keys. They bound every block's score from both sides (the proof is in
    native/block_bounds.h); blocks whose upper bound stays below enough others' lower bounds are out, and what the
    bounds leave open is scored exactly from the cache. So the selection is the same, bit for bit, on any keys; keys
    that are infinite or NaN have no bounds and are always scored.

    Args:
        index_k_cache_PXSC: the cache that it stands beside.
        backend: "native" or "triton", which have code for it; None: the one that is chosen for the cache.

    Attributes:
        shape: the cache's.
        backend: whose kernels fill and read it.
        keys_PXSC: triton: int8. Native: uint8, 128 more than the integer, and S filled up with copies of the last token
            to a multiple of 16; of each 16 tokens, then of each four channels, come 64 bytes, token after token: what
            one vector instruction multiplies with four channels of a query.
        centre_PXC: the mean of the page's keys; native: fp32; triton: in the cache's dtype.
        bounds_PX4: fp32: the scale; the longest error; the longest scale * integer; the longest key.
        counts_2: int64: scores of a block by a query head that were bounded so far, and those that were computed; only
            native counts.
    """

    def __init__(self, index_k_cache_PXSC: Tensor, backend: str | None = None) -> None:
        num_pages, num_heads, page_size, head_size = index_k_cache_PXSC.shape
        if head_size % 16 or head_size > _LARGEST_HEAD:
            raise ValueError(
                f"index_k_cache_PXSC: expected a head size of 16, 32, ... {_LARGEST_HEAD}, got {head_size}"
            )
        self.shape = tuple(index_k_cache_PXSC.shape)
        self.backend, device = choose(backend, like=index_k_cache_PXSC), index_k_cache_PXSC.device
        on_gpu = self.backend == "triton"
        kinds = (torch.int8, index_k_cache_PXSC.dtype) if on_gpu else (torch.uint8, torch.float32)
        slots = page_size if on_gpu else _filled_up(page_size)
        self.keys_PXSC = torch.empty((num_pages, num_heads, slots, head_size), dtype=kinds[0], device=device)
        self.centre_PXC = torch.empty((num_pages, num_heads, head_size), dtype=kinds[1], device=device)
        self.bounds_PX4 = torch.empty((num_pages, num_heads, _NUM_BOUNDS), device=device)
        self.counts_2 = torch.zeros(2, dtype=torch.int64)

    def update(self, index_k_cache_PXSC: Tensor, batch: PagedBatch) -> None:
        """Quantises the pages that this step's tokens, written to the cache already, have filled."""
        checks.check_cache("index_k_cache_PXSC", index_k_cache_PXSC, batch)
        if self.backend == "triton":  # which pages those are is found on the GPU
            checks.check_shape("index_k_cache_PXSC", index_k_cache_PXSC, self.shape, "P, X, S, C")
            _quantise_on_gpu(self, index_k_cache_PXSC, batch)
        else:
            self.quantise(index_k_cache_PXSC, batch.filled_pages)

    def quantise(self, index_k_cache_PXSC: Tensor, pages: Tensor) -> None:
        """Quantises these pages (int64 ids) of the cache; one that is not full is quantised again once it is."""
        checks.check_shape("index_k_cache_PXSC", index_k_cache_PXSC, self.shape, "P, X, S, C")
        if not len(pages):
            return
        if self.backend == "triton":
            size = [index_k_cache_PXSC.shape[2]] * len(pages)
            each = PagedBatch.build(size, size, pages[:, None].tolist(), size[0])
            _quantise_on_gpu(self, index_k_cache_PXSC, each)
            return
        if index_k_cache_PXSC.stride(3) != 1:
            index_k_cache_PXSC = index_k_cache_PXSC.contiguous()
        native().quantise_keys(
            native_call.DTYPES[index_k_cache_PXSC.dtype],
            index_k_cache_PXSC.data_ptr(),
            *index_k_cache_PXSC.stride()[:3],
            *self.shape[1:],
            pages.data_ptr(),
            len(pages),
            *self.addresses,
            torch.get_num_threads(),
        )

    @staticmethod
    def bytes_per_page(num_heads: int, page_size: int, head_size: int) -> int:
        """Memory of one page."""
        return num_heads * (_filled_up(page_size) * head_size + 4 * head_size + 4 * _NUM_BOUNDS)

    @property
    def addresses(self) -> tuple[int, int, int]:
        """What the native kernels are given."""
        return self.keys_PXSC.data_ptr(), self.centre_PXC.data_ptr(), self.bounds_PX4.data_ptr()

    @staticmethod
    def pays(sparse: SparseConfig, context_len: int, backend: str = "native") -> bool:
        """Whether a context ever gets so long that the scan gains by these keys."""
        if backend == "triton":
            return context_len > _LEAST_ON_GPU
        return backend == "native" and context_len > _LEAST_BLOCKS * sparse.index_topk_blocks * sparse.index_block_size

    @property
    def scored_share(self) -> float:
        """The share of bounded scores that were computed exactly."""
        bounded, scored = self.counts_2.tolist()
        return float(scored / max(bounded, 1))


def _filled_up(page_size: int) -> int:
    """Slots of a page in the native layout."""
    return -(-page_size // _SIDE_BY_SIDE) * _SIDE_BY_SIDE
