"""What the Triton kernels of `select_blocks` share: a tile's block maxima, the order of blocks. M rows of a tile."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

LARGEST = tl.constexpr(torch.finfo(torch.float32).max)
LAST_ID = tl.constexpr(0x7FFFFFFF)


@triton.jit
def tile_maxima(
    q,
    k_page,
    position,
    page,
    offset,
    k_ss,
    S: tl.constexpr,
    C: tl.constexpr,
    BC: tl.constexpr,
    BS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """`[M]` the largest score of each row in a tile of a page; -inf where it sees none. NaN is ignored."""
    c, s = tl.arange(0, BC), offset + tl.arange(0, BS)
    if S % BS == 0 and C == BC:
        k = tl.load(k_page + s[None, :] * k_ss + c[:, None])
    else:
        k = tl.load(k_page + s[None, :] * k_ss + c[:, None], mask=(s < S)[None, :] & (c < C)[:, None], other=0.0)
    score = tl.dot(q, k, input_precision="ieee")
    if MASKED:
        seen = (page * S + s)[None, :] <= position[:, None]
        score = tl.where(seen & (s < S)[None, :], score, -float("inf"))
    elif S % BS != 0:
        score = tl.where((s < S)[None, :], score, -float("inf"))
    return tl.max(score, 1)


@triton.jit
def store_group_maxima(
    best,
    score_ptr,
    row,
    page,
    live,
    x,
    blocks,
    num_groups,
    GROUPS: tl.constexpr,
    HEADS: tl.constexpr,
    BR: tl.constexpr,
    BG: tl.constexpr,
):
    """Stores, and returns, the maximum over the heads of each query and group, within the finite range."""
    m = tl.arange(0, best.shape[0])
    best = tl.where(best > -LARGEST, best, -LARGEST)  # NaN is not above it
    best = tl.minimum(best, LARGEST)
    best = tl.where(m % BG < HEADS, best, -LARGEST)
    group = tl.max(tl.reshape(best, [best.shape[0] // BG, BG]), 1)
    n = tl.arange(0, best.shape[0] // BG)
    r = n % BR
    where = ((row.to(tl.int64) + n // BR) * num_groups + x * GROUPS + r) * blocks + page
    tl.store(score_ptr + where, group, mask=(n // BR < live) & (r < GROUPS))
    return group


@triton.jit
def ranked(score, block, forced):
    """int64 keys, of which no two are equal: the higher score is the larger, of equal ones the lower block."""
    score = tl.where(score == 0.0, 0.0, score)  # one zero
    bits = score.to(tl.int32, bitcast=True)
    rank = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # orders as the floats do
    rank = tl.where(forced, 0x7FFFFFFF, rank)  # above every finite one
    return ((rank.to(tl.int64) + 0x80000000) << 31) | (block ^ LAST_ID).to(tl.int64)


@triton.jit
def store_floor(top, floor_ptr, counts_ptr, n, row, live, split, splits, x, num_groups, GROUPS: tl.constexpr,
                 BR: tl.constexpr):  # fmt: skip
    """What a split leaves of each query and group; the first one also empties their lists."""
    at = (row.to(tl.int64) + n // BR) * num_groups + x * GROUPS + n % BR
    mine = (n // BR < live) & (n % BR < GROUPS)
    tl.store(floor_ptr + at * splits + split, top, mask=mine)
    tl.store(counts_ptr + at * 2, 0, mask=mine & (split == 0))
    tl.store(counts_ptr + at * 2 + 1, 0, mask=mine & (split == 0))
