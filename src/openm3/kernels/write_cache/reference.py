"""The definition: token t of a sequence goes to page t // S, row t % S."""

from __future__ import annotations

from torch import Tensor

from openm3.kernels.paged import PagedBatch


def write_cache(new_THD: Tensor, cache_PHSD: Tensor, batch: PagedBatch) -> None:
    for span in batch.spans:
        for i, position in enumerate(range(span.first_position, span.context_len)):
            page = span.pages[position // batch.page_size]
            cache_PHSD[page, :, position % batch.page_size] = new_THD[span.rows.start + i]
