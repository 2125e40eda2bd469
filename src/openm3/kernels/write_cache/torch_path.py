"""One indexed write for all tokens of the batch."""

from __future__ import annotations

from torch import Tensor

from openm3.kernels.paged import PagedBatch


def write_cache(new_THD: Tensor, cache_PHSD: Tensor, batch: PagedBatch) -> None:
    page_T, offset_T = batch.on(cache_PHSD.device).slots
    cache_PHSD[page_T, :, offset_T] = new_THD
