"""Turns the chunks of a step into the one value that the network reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from openm3.engine.scheduler import Chunk
from openm3.kernels.paged import PagedBatch
from openm3.model.batch import Batch


def build_batch(chunks: Sequence[Chunk], page_size: int) -> Batch:
    """Packs the chunks' tokens; logits are wanted of the last token of every chunk that completes its request."""
    token_ids = [token for chunk in chunks for token in chunk.request.tokens(chunk.start, chunk.stop)]
    paged = PagedBatch.build(
        [chunk.stop - chunk.start for chunk in chunks],
        [chunk.stop for chunk in chunks],
        [chunk.request.pages for chunk in chunks],
        page_size,
    )
    completes = torch.tensor([chunk.completes for chunk in chunks])
    last_rows = paged.query_start_B1[1:].long() - 1
    return Batch(torch.tensor(token_ids), paged, last_rows[completes])
