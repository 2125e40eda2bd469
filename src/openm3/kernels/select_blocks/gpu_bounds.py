"""Triton kernel: bounds of the scores of all blocks, from index keys of 8 bits. Letters as in `gpu_few.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from openm3.kernels.select_blocks.gpu_quantise import error_length, least_scale, rounded
from openm3.kernels.select_blocks.gpu_tile import LARGEST, store_floor, store_group_maxima


@triton.jit
def bound_kernel(
    q_ptr,
    keys_ptr,
    centre_ptr,
    bounds_ptr,
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
    table_stride,
    key_heads,
    blocks,
    num_groups,
    splits,
    init,
    local,
    slack,
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
    """The same from keys of 8 bits, as bounds (the proof is in native/block_bounds.h).

    A query takes two rows of the product: its bytes, and the bytes of what those lose. So its own error is next to
    nothing, and the radius about half of what it is with bytes alone.
    """
    if OVERLAPS:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    tile, split, x = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    sequence, row = tl.load(tile_sequence_ptr + tile), tl.load(tile_row_ptr + tile)
    stop, context = tl.load(start_ptr + sequence + 1), tl.load(context_ptr + sequence)
    M: tl.constexpr = BT * BR * BG
    live = tl.minimum(stop - row, TILE)
    both, m, c = tl.arange(0, 2 * M), tl.arange(0, M), tl.arange(0, BC)
    q2 = _load_rows(both % M, q_ptr, row, live, x, q_st, q_sj, c, C, GROUPS, HEADS, BR, BG)
    length = error_length(tl.sum(q2 * q2, 1))
    scale = least_scale(tl.max(tl.abs(q2), 1), length)
    coarse = rounded(q2, scale[:, None])
    rest = q2 - scale[:, None] * coarse.to(tl.float32)
    fine = rounded(rest, scale[:, None] / 254)
    lost = rest - scale[:, None] / 254 * fine.to(tl.float32)
    q_bytes = tl.where(both[:, None] < M, coarse, fine)
    scale = tl.where(both < M, scale, scale / 254)
    error = tl.max(tl.reshape(error_length(tl.sum(lost * lost, 1)), [2, M]), 0)
    length = tl.max(tl.reshape(length, [2, M]), 0)
    q = _load_rows(m, q_ptr, row, live, x, q_st, q_sj, c, C, GROUPS, HEADS, BR, BG)
    last = (context - stop + row + live - 1) // S - local
    pages = table_ptr + sequence * table_stride
    TILES: tl.constexpr = (S + BS - 1) // BS
    best = tl.full([M], -float("inf"), tl.float32)
    top = tl.full([BT * BR], -LARGEST, tl.float32)
    n = tl.arange(0, BT * BR)
    last_of = (context - stop + row + n // BR) // S - local
    count = tl.maximum(tl.cdiv(last + 1 - init - split, splits), 0) * TILES
    next_page = tl.load(pages + init + split, mask=count > 0, other=0).to(tl.int64) * key_heads + x
    next_centre = tl.load(centre_ptr + next_page * C + c, mask=(c < C) & (count > 0), other=0.0)
    next_scale, next_error, next_kept, next_length = _load_bounds(bounds_ptr + next_page * 4, count > 0)
    next_page = tl.load(pages + init + split + 1 // TILES * splits, mask=count > 1, other=0).to(tl.int64)
    for i in range(count):
        block, offset = init + split + i // TILES * splits, i % TILES * BS
        page = tl.load(pages + block).to(tl.int64) * key_heads + x
        centre, k_scale, k_error, k_kept, k_length = next_centre, next_scale, next_error, next_kept, next_length
        # What the next step needs is fetched a step ahead, its page two.
        next_page = next_page * key_heads + x
        next_centre = tl.load(centre_ptr + next_page * C + c, mask=(c < C) & (i + 1 < count), other=0.0)
        next_scale, next_error, next_kept, next_length = _load_bounds(bounds_ptr + next_page * 4, i + 1 < count)
        next_block = init + split + (i + 2) // TILES * splits
        next_page = tl.load(pages + next_block, mask=i + 2 < count, other=0).to(tl.int64)
        s = offset + tl.arange(0, BS)
        if S % BS == 0 and C == BC:
            k = tl.load(keys_ptr + page * (S * C) + s[None, :] * C + c[:, None])
        else:
            mask = (s < S)[None, :] & (c < C)[:, None]
            k = tl.load(keys_ptr + page * (S * C) + s[None, :] * C + c[:, None], mask=mask, other=0)
        product = tl.dot(q_bytes, k, out_dtype=tl.int32).to(tl.float32) * (scale * k_scale)[:, None]
        score = tl.sum(tl.reshape(product, [2, M, BS]), 0)
        if S % BS != 0:
            score = tl.where((s < S)[None, :], score, -float("inf"))
        score = tl.max(score, 1)
        best = tl.where((score > best) | (offset == 0), score, best)
        middle = tl.sum(q * centre.to(tl.float32)[None, :], 1) + best
        radius = length * k_error + error * k_kept + length * k_length * slack
        upper = middle + radius
        upper = tl.where(upper < LARGEST, upper, LARGEST)  # NaN: no bound
        store_group_maxima(upper, upper_ptr, row - first_row, block, live, x, blocks, num_groups, GROUPS, HEADS, BR, BG)
        lower = middle - radius
        lower = tl.where((lower > -LARGEST) & (m % BG < HEADS), lower, -LARGEST)
        group = tl.max(tl.reshape(lower, [BT * BR, BG]), 1)
        top = tl.where(block <= last_of, tl.maximum(top, group), top)
    store_floor(top, floor_ptr, counts_ptr, n, row - first_row, live, split, splits, x, num_groups, GROUPS, BR)


@triton.jit
def _load_bounds(bounds_ptr, is_there):
    scale, error = tl.load(bounds_ptr, mask=is_there, other=0.0), tl.load(bounds_ptr + 1, mask=is_there, other=0.0)
    kept, length = tl.load(bounds_ptr + 2, mask=is_there, other=0.0), tl.load(bounds_ptr + 3, mask=is_there, other=0.0)
    return scale, error, kept, length


@triton.jit
def _load_rows(m, q_ptr, row, live, x, q_st, q_sj, c, C: tl.constexpr, GROUPS: tl.constexpr, HEADS: tl.constexpr,
               BR: tl.constexpr, BG: tl.constexpr):  # fmt: skip
    """fp32 queries of a tile's rows."""
    token, r, g = m // (BR * BG), m // BG % BR, m % BG
    mine = (token < live) & (r < GROUPS) & (g < HEADS)
    where = (row + token).to(tl.int64) * q_st + ((x * GROUPS + r) * HEADS + g) * q_sj
    mask = mine[:, None] & (c < C)[None, :]
    return tl.load(q_ptr + where[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
