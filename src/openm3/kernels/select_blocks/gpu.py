"""Triton kernels: a scan that leaves one score a block, then the choice. Letters as in `op.py`; M rows of a tile.

The scan reads a key once for a tile of queries and all the index heads that share it, and takes the maximum of a block
while its scores are in registers: what is written is queries x groups x blocks. The choice ranks blocks by one integer,
the score above and the lower id below it, so that no two are equal and the order of work changes nothing.
"""

from __future__ import annotations

import itertools

import torch
import triton
import triton.language as tl
from torch import Tensor

from openm3.config import SparseConfig
from openm3.kernels.device import FEW_QUERIES, DeviceBatch, Tiles
from openm3.kernels.gpu_shape import key_tile, num_processors, power_of_2
from openm3.kernels.gpu_tuning import Launch, tuning
from openm3.kernels.paged import PagedBatch
from openm3.kernels.select_blocks.gpu_few import MOST_SLOTS, select_few
from openm3.kernels.select_blocks.gpu_tile import LAST_ID, ranked, store_group_maxima, tile_maxima
from openm3.kernels.select_blocks.quantised import QuantisedIndex

# Tokens of the widest context from which keys of 8 bits are scanned: with fewer, what bounds leave open costs more than
# they save (LOG.md). The choice is the same either way.
LEAST_BOUNDED = 1 << 18
_SCORES_BYTES = 1 << 29  # of block scores at once
_PART, _MOST_KEYS = 512, 4096  # blocks of which one program keeps the best, and what the last program may be given


def select_blocks(
    index_q_TJC: Tensor,
    index_k_cache_PXSC: Tensor,
    batch: PagedBatch,
    sparse: SparseConfig,
    num_groups: int,
    quantised: QuantisedIndex | None = None,
) -> Tensor:
    if index_q_TJC.stride(2) != 1:
        index_q_TJC = index_q_TJC.contiguous()
    if index_k_cache_PXSC.stride(3) != 1:
        index_k_cache_PXSC = index_k_cache_PXSC.contiguous()
    on = batch.on(index_q_TJC.device)
    num_tokens, blocks = index_q_TJC.shape[0], on.most_pages
    shape = (num_tokens, num_groups, sparse.index_topk_blocks)
    ids_TRN = torch.empty(shape, dtype=torch.int32, device=index_q_TJC.device)
    rows_a_token, tuned = _rows_a_token(index_q_TJC, index_k_cache_PXSC, num_groups), tuning(index_q_TJC.device)
    if blocks * batch.page_size < LEAST_BOUNDED:
        quantised = None
    narrow = 1 if index_q_TJC.element_size() == 2 else 4
    for few, run in itertools.groupby(range(len(batch.spans)), lambda b: batch.spans[b].num_queries <= FEW_QUERIES):
        launch, sequences = tuned.scan_few if few else tuned.scan_many, tuple(run)
        size = max(1, launch.rows // (1 if few else narrow) // rows_a_token)
        tiles = on.tiles(size, sequences)
        bounds = (*tiles.rows, batch.spans[sequences[-1]].rows.stop)
        at_once = max(1, _SCORES_BYTES // (4 * num_groups * blocks * size))
        for first in range(0, len(tiles), at_once):
            some = slice(first, min(first + at_once, len(tiles)))
            rows = slice(bounds[some.start], bounds[some.stop])
            if few and sparse.index_topk_blocks <= MOST_SLOTS:
                args = (on, tiles, some, size, tuned, sparse, quantised, ids_TRN[rows])
                select_few(index_q_TJC, index_k_cache_PXSC, *args)
                continue
            score_tRb = torch.empty((rows.stop - rows.start, num_groups, blocks), device=index_q_TJC.device)
            _scan(index_q_TJC, index_k_cache_PXSC, on, score_tRb, tiles, some, size, launch)
            _choose(score_tRb, on.position[rows], sparse, ids_TRN[rows])
    return ids_TRN


def _rows_a_token(index_q_TJC: Tensor, cache_PXSC: Tensor, num_groups: int) -> int:
    """Rows of a tile that one query token takes: the index heads that share a key head, groups and heads filled up."""
    num_heads, key_heads = index_q_TJC.shape[1], cache_PXSC.shape[1]
    return power_of_2(num_groups // key_heads) * power_of_2(num_heads // num_groups)


def _scan(
    q: Tensor,
    cache: Tensor,
    on: DeviceBatch,
    score_tRb: Tensor,
    tiles: Tiles,
    some: slice,
    size: int,
    launch: Launch,
) -> None:
    _, num_groups, blocks = score_tRb.shape
    key_heads, page_size, head_size = cache.shape[1:]
    groups, heads = num_groups // key_heads, q.shape[1] // num_groups
    num_tiles = some.stop - some.start
    splits = min(blocks, max(1, launch.programs * num_processors(q.device) // (num_tiles * key_heads)))
    num_rows = power_of_2(groups) * power_of_2(heads) * size
    _scan_kernel[(num_tiles, splits, key_heads)](
        q,
        cache,
        score_tRb,
        tiles.sequence[some],
        tiles.row[some],
        on.query_start,
        on.context_len,
        on.page_table,
        tiles.rows[some.start],
        q.stride(0),
        q.stride(1),
        *cache.stride()[:3],
        on.page_table.stride(0),
        blocks,
        num_groups,
        splits,
        S=page_size,
        C=head_size,
        GROUPS=groups,
        HEADS=heads,
        TILE=size,
        BT=max(size, 16 // (num_rows // size)),
        BR=power_of_2(groups),
        BG=power_of_2(heads),
        BC=power_of_2(head_size, 16),
        BS=key_tile(page_size, head_size, cache.element_size()),
        num_warps=launch.warps,
        num_stages=launch.stages,
    )


@triton.jit
def _scan_kernel(
    q_ptr,
    k_ptr,
    score_ptr,
    tile_sequence_ptr,
    tile_row_ptr,
    start_ptr,
    context_ptr,
    table_ptr,
    first_row,
    q_st,
    q_sj,
    k_sp,
    k_sx,
    k_ss,
    table_stride,
    blocks,
    num_groups,
    splits,
    S: tl.constexpr,
    C: tl.constexpr,
    GROUPS: tl.constexpr,
    HEADS: tl.constexpr,
    TILE: tl.constexpr,
    BT: tl.constexpr,
    BR: tl.constexpr,
    BG: tl.constexpr,
    BC: tl.constexpr,
    BS: tl.constexpr,
):
    tile, split, x = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    sequence, row = tl.load(tile_sequence_ptr + tile), tl.load(tile_row_ptr + tile)
    stop, context = tl.load(start_ptr + sequence + 1), tl.load(context_ptr + sequence)
    M: tl.constexpr = BT * BR * BG
    m = tl.arange(0, M)
    token, r, g = m // (BR * BG), m // BG % BR, m % BG
    live = tl.minimum(stop - row, TILE)
    mine = (token < live) & (r < GROUPS) & (g < HEADS)
    first_position = context - stop + row
    position = first_position + token
    c = tl.arange(0, BC)
    head = (x * GROUPS + r) * HEADS + g
    where = (row + token).to(tl.int64) * q_st + head * q_sj
    q = tl.load(q_ptr + where[:, None] + c[None, :], mask=mine[:, None] & (c < C)[None, :], other=0.0)
    num_pages = (first_position + live - 1) // S + 1
    a_split = tl.cdiv(num_pages, splits)
    begin, end = split * a_split, tl.minimum(split * a_split + a_split, num_pages)
    unmasked = tl.maximum(tl.minimum((first_position + 1) // S, end), begin)  # pages that every row sees whole
    keys, pages = k_ptr + x * k_sx, table_ptr + sequence * table_stride
    TILES: tl.constexpr = (S + BS - 1) // BS  # of a page; what the last one stores is the page's maximum
    best = tl.full([M], -float("inf"), tl.float32)
    for i in range(begin * TILES, unmasked * TILES):
        page, offset = i // TILES, i % TILES * BS
        k_page = keys + tl.load(pages + page).to(tl.int64) * k_sp
        top = tile_maxima(q, k_page, position, page, offset, k_ss, S, C, BC, BS, False)
        best = tl.where((top > best) | (offset == 0), top, best)
        store_group_maxima(best, score_ptr, row - first_row, page, live, x, blocks, num_groups, GROUPS, HEADS, BR, BG)
    for i in range(unmasked * TILES, end * TILES):
        page, offset = i // TILES, i % TILES * BS
        k_page = keys + tl.load(pages + page).to(tl.int64) * k_sp
        top = tile_maxima(q, k_page, position, page, offset, k_ss, S, C, BC, BS, True)
        best = tl.where((top > best) | (offset == 0), top, best)
        store_group_maxima(best, score_ptr, row - first_row, page, live, x, blocks, num_groups, GROUPS, HEADS, BR, BG)


def _choose(score_tRb: Tensor, position_t: Tensor, sparse: SparseConfig, ids_tRN: Tensor) -> None:
    num_tokens, num_groups, blocks = score_tRb.shape
    topk, kept = sparse.index_topk_blocks, power_of_2(sparse.index_topk_blocks, 2)
    part = max(_PART, 2 * kept)
    while -(-blocks // part) * kept > max(_MOST_KEYS, part):
        part *= 2
    parts = -(-blocks // part)
    rows, device = num_tokens * num_groups, score_tRb.device
    best = torch.empty((rows, parts, kept) if parts > 1 else 1, dtype=torch.int64, device=device)
    _best_kernel[(rows, parts)](
        score_tRb,
        position_t,
        best,
        ids_tRN,
        blocks,
        num_groups,
        topk,
        sparse.index_init_blocks,
        sparse.index_local_blocks,
        S=sparse.index_block_size,
        PART=part if parts > 1 else power_of_2(blocks, 16),
        KEPT=kept,
        LAST=parts == 1,
        num_warps=1 if part <= 1024 else 4,
    )
    if parts > 1:
        size = power_of_2(parts * kept)
        _merge_kernel[(rows,)](
            best, ids_tRN, parts * kept, topk, KEYS=size, KEPT=kept, num_warps=1 if size <= 512 else 4
        )


@triton.jit
def _take_best(key, topk, KEPT: tl.constexpr):
    """The `topk` largest of distinct keys, -1 where there are fewer."""
    slot = tl.arange(0, KEPT)
    kept = tl.full([KEPT], -1, tl.int64)
    for i in range(topk):
        best = tl.max(key, 0)
        kept = tl.where(slot == i, best, kept)
        key = tl.where(key == best, -1, key)
    return kept


@triton.jit
def _store_ids(kept, ids_ptr, topk, KEPT: tl.constexpr):
    """Ascending, -1 on the right."""
    ids = tl.where(kept >= 0, (kept & LAST_ID) ^ LAST_ID, LAST_ID).to(tl.int32)
    ids = tl.sort(ids)
    slot = tl.arange(0, KEPT)
    tl.store(ids_ptr + slot, tl.where(ids == LAST_ID, -1, ids), mask=slot < topk)


@triton.jit
def _best_kernel(
    score_ptr,
    position_ptr,
    best_ptr,
    ids_ptr,
    blocks,
    num_groups,
    topk,
    init,
    local,
    S: tl.constexpr,
    PART: tl.constexpr,
    KEPT: tl.constexpr,
    LAST: tl.constexpr,
):
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    block = part * PART + tl.arange(0, PART)
    own = tl.load(position_ptr + row // num_groups) // S
    score = tl.load(score_ptr + row * blocks + block, mask=block <= own, other=0.0)
    key = ranked(score, block, (block < init) | (block > own - local))
    kept = _take_best(tl.where(block <= own, key, -1), topk, KEPT)
    if LAST:
        _store_ids(kept, ids_ptr + row * topk, topk, KEPT)
    else:
        where = (row * tl.num_programs(1) + part) * KEPT
        tl.store(best_ptr + where + tl.arange(0, KEPT), kept)


@triton.jit
def _merge_kernel(best_ptr, ids_ptr, count, topk, KEYS: tl.constexpr, KEPT: tl.constexpr):
    row, slot = tl.program_id(0).to(tl.int64), tl.arange(0, KEYS)
    key = tl.load(best_ptr + row * count + slot, mask=slot < count, other=-1)
    _store_ids(_take_best(key, topk, KEPT), ids_ptr + row * topk, topk, KEPT)
