"""Turns the chunks of a step into the one value that the network reads."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from openm3.engine.scheduler import Chunk
from openm3.kernels.paged import PagedBatch
from openm3.model.batch import Batch
from openm3.model.pooling import Pooling
from openm3.model.watch import Watch


def build_batch(chunks: Sequence[Chunk], page_size: int, topk: int | None = None) -> Batch:
    """Packs the chunks' tokens and drafts; logits are wanted of the last known token of every chunk that completes its
    request, and of its draft. Where a request is observed, these rows are watched too; where it is pooled, all are.

    `topk`, where answers read a number of blocks of their own, is what prompts read.
    """
    token_ids = [token for chunk in chunks for token in (*chunk.request.tokens(chunk.start, chunk.stop), *chunk.draft)]
    paged = PagedBatch.build(
        [chunk.end - chunk.start for chunk in chunks],
        [chunk.end for chunk in chunks],
        [chunk.request.pages for chunk in chunks],
        page_size,
    )
    ends: list[int] = paged.query_start_B1[1:].tolist()
    rows = [row for chunk, end in zip(chunks, ends, strict=True) for row in range(end - chunk.num_logits, end)]
    pooled = [
        (end - chunk.stop + chunk.start, end)
        for chunk, end in zip(chunks, ends, strict=True)
        if chunk.request.pooled is not None
    ]
    watched = [row for chunk, end in zip(chunks, ends, strict=True) for row in range(end - chunk.num_watched, end)]
    seen_rows_M, seen_MC = _seen(chunks)
    batch = Batch(torch.tensor(token_ids), paged, torch.tensor(rows, dtype=torch.long), seen_rows_M, seen_MC)
    if pooled:
        batch = replace(batch, pooling=Pooling(pooled))
    if watched:
        batch = replace(batch, watch=Watch(torch.tensor(watched), paged))
    if topk is not None:
        topk_B = [chunk.request.topk_at(chunk.start) or topk for chunk in chunks]
        probed = [end - 1 for chunk, end in zip(chunks, ends, strict=True) if chunk.ends_prompt]
        probe = Watch(torch.tensor(probed), paged, probes=True) if probed else None
        batch = replace(batch, topk_B=torch.tensor(topk_B, dtype=torch.int32), probe=probe)
    return batch


def _seen(chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """The batch's rows that stand for images and videos (int64 [M]), and their embeddings (fp32 [M, C])."""
    rows: list[int] = []
    embeddings: list[Tensor] = []
    begin = 0  # the chunk's first row in the batch
    for chunk in chunks:
        places, seen_NC = chunk.request.places, chunk.request.seen_NC
        first, last = bisect_left(places, chunk.start), bisect_left(places, chunk.stop)
        if first < last:
            assert seen_NC is not None, "images and videos are seen before they are read"
            rows += [begin + place - chunk.start for place in places[first:last]]
            embeddings.append(seen_NC[first:last])
        begin += chunk.end - chunk.start
    return (torch.tensor(rows), torch.cat(embeddings)) if rows else (None, None)
