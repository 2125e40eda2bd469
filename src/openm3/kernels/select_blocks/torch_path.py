"""Tiles of queries x keys as fp32 matrix products, reduced to block maxima at once. Letters as in `op.py`.

The largest temporary is one tile; block maxima are queries x blocks. Products of bf16 are exact in fp32, so the
scores differ from the reference's by the order of summation alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.config import SparseConfig
from openm3.kernels.paged import PagedBatch, Span

_TILE_KEYS = 4096
_TILE_BYTES = 32 << 20
_LARGEST = torch.finfo(torch.float32).max


def select_blocks(
    index_q_TJC: Tensor,
    index_k_cache_PXSC: Tensor,
    batch: PagedBatch,
    sparse: SparseConfig,
    num_groups: int,
    topk_B: Tensor | None = None,
) -> Tensor:
    topks = [sparse.index_topk_blocks] * len(batch.spans) if topk_B is None else topk_B.tolist()
    return torch.cat(
        [
            _choose(_block_scores(index_q_TJC[span.rows], index_k_cache_PXSC, span, num_groups), span, sparse, topk)
            for span, topk in zip(batch.spans, topks, strict=True)
        ]
    )


def _block_scores(index_q_tJC: Tensor, cache_PXSC: Tensor, span: Span, num_groups: int) -> Tensor:
    """fp32 `[t, R, blocks]`; blocks without a visible token are -inf, visible ones finite."""
    page_size = cache_PXSC.shape[2]
    num_queries, num_heads, _ = index_q_tJC.shape
    dtype = torch.promote_types(index_q_tJC.dtype, torch.float32)
    q_XgtC = index_q_tJC.to(dtype).transpose(0, 1).unflatten(0, (cache_PXSC.shape[1], -1))
    scores_tRb = torch.empty(num_queries, num_groups, len(span.pages), dtype=dtype)
    tile_pages = max(1, _TILE_KEYS // page_size)
    tile_rows = max(1, _TILE_BYTES // (4 * num_heads * tile_pages * page_size))
    position_t = torch.arange(span.first_position, span.context_len)
    for page in range(0, len(span.pages), tile_pages):
        tile = slice(page, page + tile_pages)
        keys_XKC = cache_PXSC[span.pages[tile]].transpose(0, 1).flatten(1, 2).to(dtype)
        position_K = torch.arange(page * page_size, page * page_size + keys_XKC.shape[1])
        for row in range(0, num_queries, tile_rows):
            rows = slice(row, row + tile_rows)
            scores_XgtK = q_XgtC[:, :, rows] @ keys_XKC[:, None].mT
            if not torch.isfinite(scores_XgtK.sum()):
                scores_XgtK.nan_to_num_(nan=-_LARGEST, posinf=_LARGEST, neginf=-_LARGEST)
            if position_K[-1] > position_t[row]:
                scores_XgtK.masked_fill_(position_K > position_t[rows, None], -torch.inf)
            best_Xgtb = scores_XgtK.unflatten(-1, (-1, page_size)).amax(-1)
            scores_tRb[rows, :, tile] = best_Xgtb.flatten(0, 1).unflatten(0, (num_groups, -1)).amax(1).transpose(0, 1)
    return scores_tRb


def _choose(scores_tRb: Tensor, span: Span, sparse: SparseConfig, topk: int) -> Tensor:
    """The best `topk`, int32 `[t, R, N]` ascending, -1 on the right. At equal scores the lower id wins."""
    page_size = sparse.index_block_size
    num_blocks = scores_tRb.shape[2]
    own_t11 = torch.arange(span.first_position, span.context_len)[:, None, None] // page_size
    block_b = torch.arange(num_blocks)
    visible = block_b <= own_t11
    forced = visible & ((block_b < sparse.index_init_blocks) | (block_b > own_t11 - sparse.index_local_blocks))
    ranked = scores_tRb.masked_fill(forced, torch.inf)
    if num_blocks > topk:
        # torch.topk breaks ties as it likes, so it gives the threshold only; ties are cut by counting from the left.
        threshold = ranked.topk(topk, dim=-1, sorted=False).values.amin(-1, keepdim=True)
        above, equal = ranked > threshold, ranked == threshold
        room = topk - above.sum(-1, keepdim=True)
        chosen = (above | (equal & (equal.cumsum(-1) <= room))) & visible
    else:
        chosen = visible.expand_as(ranked)
    ids = torch.where(chosen, block_b, num_blocks)
    ids = (
        ids.sort(dim=-1).values[..., :topk]
        if num_blocks <= topk
        else ids.topk(topk, largest=False).values.sort().values
    )
    ids = ids.masked_fill(ids == num_blocks, -1).int()
    return torch.nn.functional.pad(ids, (0, sparse.index_topk_blocks - ids.shape[-1]), value=-1)
