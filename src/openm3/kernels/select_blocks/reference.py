"""The definition, one query at a time. Letters as in `op.py`."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from openm3.config import SparseConfig
from openm3.kernels.paged import PagedBatch


def select_blocks(
    index_q_TJC: Tensor,
    index_k_cache_PXSC: Tensor,
    batch: PagedBatch,
    sparse: SparseConfig,
    num_groups: int,
    topk_B: Tensor | None = None,
) -> Tensor:
    block_ids_TRN = torch.full((batch.num_tokens, num_groups, sparse.index_topk_blocks), -1, dtype=torch.int32)
    for b, span in enumerate(batch.spans):
        own = sparse if topk_B is None else dataclasses.replace(sparse, index_topk_blocks=int(topk_B[b]))
        keys_LXC = index_k_cache_PXSC[span.pages].transpose(1, 2).flatten(0, 1).float()
        for i in range(span.num_queries):
            visible_LXC = keys_LXC[: span.first_position + i + 1]
            queries_JC = index_q_TJC[span.rows.start + i].float()
            for r, group_GC in enumerate(queries_JC.chunk(num_groups)):
                keys_LC = visible_LXC[:, r if visible_LXC.shape[1] > 1 else 0]
                scores_L = (keys_LC @ group_GC.T).nan_to_num(nan=-torch.inf).amax(1)
                ids = choose_blocks([float(block.max()) for block in scores_L.split(batch.page_size)], own)
                block_ids_TRN[span.rows.start + i, r, : len(ids)] = torch.tensor(ids, dtype=torch.int32)
    return block_ids_TRN


def choose_blocks(scores: list[float], sparse: SparseConfig) -> list[int]:
    """The ids of the chosen blocks of one query and group, ascending; `scores` has one value a visible block."""
    largest = torch.finfo(torch.float32).max
    last = len(scores) - 1

    def rank(block: int) -> tuple[bool, float, int]:
        forced = block < sparse.index_init_blocks or block > last - sparse.index_local_blocks
        return (not forced, -min(max(scores[block], -largest), largest), block)

    return sorted(sorted(range(len(scores)), key=rank)[: sparse.index_topk_blocks])
