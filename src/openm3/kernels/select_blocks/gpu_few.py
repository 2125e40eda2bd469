"""Triton kernels for the few queries of a decode step: bounds of all scores, then the choice. Letters as in `op.py`.

The scan splits the context over the processor. Each split leaves an upper bound of every block's score and, of its
blocks, the highest lower bound. With n slots to fill, the n-th highest of those is a floor: n blocks score at least
that, so a block whose upper bound lies below it is out. What is left is a few blocks more than n. They are scored, put
on a list, and the program that comes last ranks the list, all pairs at once.

Exact scores are their own bounds. From keys of 8 bits (`gpu_bounds.py`) come true bounds, from half the bytes; what
those leave open is scored from the cache by the same product of the same shape as the exact scan, so the choice is the
same, bit for bit.

Kernels overlap: what a kernel reads before it waits for the one before it was written before that one began.
Letters: M rows of a tile.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from openm3.config import SparseConfig
from openm3.kernels.device import DeviceBatch, Tiles
from openm3.kernels.gpu_shape import key_tile, num_processors, overlapping, power_of_2
from openm3.kernels.gpu_tuning import Tuning
from openm3.kernels.select_blocks.gpu_bounds import bound_kernel
from openm3.kernels.select_blocks.gpu_tile import (
    LARGEST,
    LAST_ID,
    ranked,
    store_floor,
    store_group_maxima,
    tile_maxima,
)
from openm3.kernels.select_blocks.quantised import QuantisedIndex

MOST_SLOTS = 64  # of a query: lists are ranked by all pairs
_LEAST_PART, _MOST_PART = 128, 1024  # blocks that one program of the choice looks at; few where it has to score some
_SLACK = 2.0**-20  # times C, as in native/block_bounds.h


def select_few(
    q: Tensor,
    cache: Tensor,
    on: DeviceBatch,
    tiles: Tiles,
    some: slice,
    size: int,
    tuned: Tuning,
    sparse: SparseConfig,
    quantised: QuantisedIndex | None,
    ids_tRN: Tensor,
) -> None:
    """Writes the choices of the queries of some tiles, `size` queries each."""
    num_tokens, num_groups, topk = ids_tRN.shape
    key_heads, page_size, head_size = cache.shape[1:]
    groups, heads, blocks, device = num_groups // key_heads, q.shape[1] // num_groups, on.most_pages, q.device
    num_tiles = some.stop - some.start
    launch = tuned.scan_few if quantised is None else tuned.bound_few
    splits = min(blocks, max(1, launch.programs * num_processors(device) // (num_tiles * key_heads)))
    upper_tRb = torch.empty((num_tokens, num_groups, blocks), device=device)
    floor_tRs = torch.empty((num_tokens, num_groups, splits), device=device)
    list_tRb = torch.empty((num_tokens, num_groups, blocks), dtype=torch.int64, device=device)
    counts_tR2 = torch.empty((num_tokens, num_groups, 2), dtype=torch.int32, device=device)
    rows = power_of_2(groups) * power_of_2(heads)
    place = (
        tiles.sequence[some],
        tiles.row[some],
        on.query_start,
        on.context_len,
        on.page_table,
        tiles.rows[some.start],
    )
    strides = (q.stride(0), q.stride(1), *cache.stride()[:3], on.page_table.stride(0))
    counts = (blocks, num_groups, splits, sparse.index_init_blocks, sparse.index_local_blocks)
    shape = {
        "S": page_size,
        "C": head_size,
        "GROUPS": groups,
        "HEADS": heads,
        "TILE": size,
        "BR": power_of_2(groups),
        "BG": power_of_2(heads),
    }
    exact = {"BC": power_of_2(head_size, 16), "BS": key_tile(page_size, head_size, cache.element_size())}
    exact["BT"] = max(size, 16 // rows)
    grid, waits = (num_tiles, splits, key_heads), overlapping(device)
    if quantised is None:
        args = (q, cache, upper_tRb, floor_tRs, counts_tR2, *place, *strides, *counts)
        _scan_kernel[grid](*args, **shape, **exact, num_warps=launch.warps, num_stages=launch.stages, **waits)
    else:
        bound_kernel[grid](
            q,
            quantised.keys_PXSC,
            quantised.centre_PXC,
            quantised.bounds_PX4,
            upper_tRb,
            floor_tRs,
            counts_tR2,
            *place,
            q.stride(0),
            q.stride(1),
            on.page_table.stride(0),
            key_heads,
            *counts,
            _SLACK * head_size,
            **shape,
            BT=max(size, 8 // rows),
            BC=power_of_2(head_size, 32),
            BS=key_tile(page_size, head_size, 1),
            num_warps=launch.warps,
            num_stages=launch.stages,
            **waits,
        )
    pairs = max(64, 4 * power_of_2(topk))
    part = power_of_2(-(-blocks * num_tokens * num_groups // (2 * num_processors(device))))
    part = _MOST_PART if quantised is None else min(max(part, _LEAST_PART), _MOST_PART)
    _choose_kernel[(num_tiles * size * num_groups, -(-blocks // part))](
        q,
        cache,
        upper_tRb,
        floor_tRs,
        list_tRb,
        counts_tR2,
        ids_tRN,
        *place,
        *strides,
        *counts,
        topk,
        **shape,
        **exact,
        BOUNDED=quantised is not None,
        PART=part,
        PAIRS=pairs,
        BF=max(128, pairs),
        ROUNDS=-(-splits // max(128, pairs)),
        num_warps=4 if pairs <= 128 else 8,
        **waits,
    )


@triton.jit
def _scan_kernel(
    q_ptr,
    k_ptr,
    upper_ptr,
    floor_ptr,
    counts_ptr,
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
    init,
    local,
    S: tl.constexpr,
    C: tl.constexpr,
    GROUPS: tl.constexpr,
    HEADS: tl.constexpr,
    TILE: tl.constexpr,
    BR: tl.constexpr,
    BG: tl.constexpr,
    BC: tl.constexpr,
    BS: tl.constexpr,
    BT: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """The exact scores of the blocks that a query may choose or not; all of them are full."""
    if OVERLAPS:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    tile, split, x = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    sequence, row = tl.load(tile_sequence_ptr + tile), tl.load(tile_row_ptr + tile)
    stop, context = tl.load(start_ptr + sequence + 1), tl.load(context_ptr + sequence)
    m, c = tl.arange(0, BT * BR * BG), tl.arange(0, BC)
    token, r, g = m // (BR * BG), m // BG % BR, m % BG
    live = tl.minimum(stop - row, TILE)
    mine = (token < live) & (r < GROUPS) & (g < HEADS)
    where = (row + token).to(tl.int64) * q_st + ((x * GROUPS + r) * HEADS + g) * q_sj
    q = tl.load(q_ptr + where[:, None] + c[None, :], mask=mine[:, None] & (c < C)[None, :], other=0.0)
    position = context - stop + row + token
    last = (context - stop + row + live - 1) // S - local  # that the last query may choose or not
    keys, pages = k_ptr + x * k_sx, table_ptr + sequence * table_stride
    TILES: tl.constexpr = (S + BS - 1) // BS  # of a page
    best = tl.full([BT * BR * BG], -float("inf"), tl.float32)
    top = tl.full([BT * BR], -LARGEST, tl.float32)
    n = tl.arange(0, BT * BR)
    last_of = (context - stop + row + n // BR) // S - local
    for i in range(tl.maximum(tl.cdiv(last + 1 - init - split, splits), 0) * TILES):
        block, offset = init + split + i // TILES * splits, i % TILES * BS
        k_page = keys + tl.load(pages + block).to(tl.int64) * k_sp
        score = tile_maxima(q, k_page, position, block, offset, k_ss, S, C, BC, BS, False)
        best = tl.where((score > best) | (offset == 0), score, best)
        group = store_group_maxima(
            best, upper_ptr, row - first_row, block, live, x, blocks, num_groups, GROUPS, HEADS, BR, BG
        )
        top = tl.where(block <= last_of, tl.maximum(top, group), top)
    store_floor(top, floor_ptr, counts_ptr, n, row - first_row, live, split, splits, x, num_groups, GROUPS, BR)


@triton.jit
def _choose_kernel(
    q_ptr,
    k_ptr,
    upper_ptr,
    floor_ptr,
    list_ptr,
    counts_ptr,
    ids_ptr,
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
    init,
    local,
    topk,
    S: tl.constexpr,
    C: tl.constexpr,
    GROUPS: tl.constexpr,
    HEADS: tl.constexpr,
    TILE: tl.constexpr,
    BR: tl.constexpr,
    BG: tl.constexpr,
    BC: tl.constexpr,
    BS: tl.constexpr,
    BT: tl.constexpr,
    BOUNDED: tl.constexpr,
    PART: tl.constexpr,
    PAIRS: tl.constexpr,
    BF: tl.constexpr,
    ROUNDS: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """One query and group, `PART` of its blocks: those not below the floor go on its list, with their exact scores."""
    of, part, x = tl.program_id(0), tl.program_id(1), tl.program_id(0) % num_groups // GROUPS
    group, token_here, tile = of % num_groups, of // num_groups % TILE, of // num_groups // TILE
    sequence, row = tl.load(tile_sequence_ptr + tile), tl.load(tile_row_ptr + tile)
    stop, context = tl.load(start_ptr + sequence + 1), tl.load(context_ptr + sequence)
    live = tl.minimum(stop - row, TILE)
    own = (context - stop + row + token_here) // S
    at = (row - first_row + token_here).to(tl.int64) * num_groups + group
    m, c = tl.arange(0, BT * BR * BG), tl.arange(0, BC)
    token, r, g = m // (BR * BG), m // BG % BR, m % BG
    mine = (token < live) & (r < GROUPS) & (g < HEADS)
    where = (row + token).to(tl.int64) * q_st + ((x * GROUPS + r) * HEADS + g) * q_sj
    if BOUNDED:
        q = tl.load(q_ptr + where[:, None] + c[None, :], mask=mine[:, None] & (c < C)[None, :], other=0.0)
    if OVERLAPS:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    if token_here < live:
        block = part * PART + tl.arange(0, PART)
        forced = ((block < init) | (block > own - local) | (own < topk)) & (block <= own)
        is_open = (block >= init) & (block <= own - local) & (own >= topk)
        upper = tl.load(upper_ptr + at * blocks + block, mask=is_open, other=-float("inf"))
        is_open = is_open & (upper >= _floor(floor_ptr + at * splits, splits, topk - init - local, BF, ROUNDS))
        listed = forced | is_open
        count = tl.sum(listed.to(tl.int32), 0)
        if count > 0:
            begin = tl.atomic_add(counts_ptr + at * 2, count, sem="relaxed")
            to = list_ptr + at * blocks + begin
            place = tl.cumsum(listed.to(tl.int32), 0) - 1
            tl.store(to + place, ranked(upper, block, forced), mask=forced if BOUNDED else listed)
            if BOUNDED:
                wanted = mine & (token == token_here) & (r == group % GROUPS)
                TILES: tl.constexpr = (S + BS - 1) // BS
                here = tl.min(tl.where(is_open, block, LAST_ID), 0)
                while here < LAST_ID:
                    page = tl.load(table_ptr + sequence * table_stride + here).to(tl.int64)
                    k_page = k_ptr + page * k_sp + x * k_sx
                    best = tl.full([BT * BR * BG], -float("inf"), tl.float32)
                    for tile_of in range(TILES):
                        score = tile_maxima(q, k_page, token, here, tile_of * BS, k_ss, S, C, BC, BS, False)
                        best = tl.where(score > best, score, best)
                    best = tl.where((best > -LARGEST) & wanted, best, -LARGEST)
                    exact = tl.zeros([PART], tl.float32) + tl.minimum(tl.max(best, 0), LARGEST)
                    taken = is_open & (block == here)
                    tl.store(to + place, ranked(exact, block, forced), mask=taken)
                    is_open = is_open & (block != here)
                    here = tl.min(tl.where(is_open, block, LAST_ID), 0)
        tl.debug_barrier()  # all of it is written before it is said
        if tl.atomic_add(counts_ptr + at * 2 + 1, 1, sem="acq_rel") == tl.num_programs(1) - 1:
            count = tl.load(counts_ptr + at * 2, volatile=True)
            _rank_list(list_ptr + at * blocks, count, ids_ptr + at * topk, topk, PAIRS)


@triton.jit
def _floor(floor_ptr, splits, slots, BF: tl.constexpr, ROUNDS: tl.constexpr):
    """The highest value that at least `slots` splits reach; splits are first joined to `BF`."""
    i = tl.arange(0, BF)
    top = tl.full([BF], -LARGEST, tl.float32)
    for number in range(ROUNDS):
        split = number * BF + i
        top = tl.maximum(top, tl.load(floor_ptr + split, mask=split < splits, other=-LARGEST))
    reached = tl.sum((top[None, :] >= top[:, None]).to(tl.int32), 1)
    floor = tl.max(tl.where(reached >= slots, top, -LARGEST), 0)
    return tl.where(slots > 0, floor, float("inf"))


@triton.jit
def _rank_list(list_ptr, count, ids_ptr, topk, PAIRS: tl.constexpr):
    """The ids of the `topk` largest keys of a list, ascending, -1 on the right. The list's front is written over."""
    i = tl.arange(0, PAIRS)
    key = tl.load(list_ptr + i, mask=i < count, other=-1, cache_modifier=".cg")
    done = PAIRS
    while done < count:  # rare: bounds that leave much open. The best so far come to the front, before the next ones
        rank = tl.sum((key[None, :] > key[:, None]).to(tl.int32), 1)
        tl.debug_barrier()
        tl.store(list_ptr + rank, key, mask=rank < topk)
        tl.debug_barrier()
        at = tl.where(i < topk, i, done + i - topk)
        key = tl.load(list_ptr + at, mask=at < count, other=-1, cache_modifier=".cg")
        done += PAIRS - topk
    rank = tl.sum((key[None, :] > key[:, None]).to(tl.int32), 1)
    chosen = (rank < topk) & (key >= 0)
    ids = tl.where(chosen, (key & LAST_ID) ^ LAST_ID, LAST_ID).to(tl.int32)
    place = tl.sum((ids[None, :] < ids[:, None]).to(tl.int32), 1)
    tl.store(ids_ptr + place, ids, mask=chosen)
    tl.store(ids_ptr + i, -1, mask=(i >= tl.sum(chosen.to(tl.int32), 0)) & (i < topk))
