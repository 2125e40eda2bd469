"""Triton's attention over pages: dense or over chosen blocks, one pass or split over the context.

The rows of a tile are the G heads of a group, for one query or several: a key is read once for all of them. Sequences
of few queries split their context over the processor; the parts, each with its log-sum-exp, are merged in order.

Letters: T packed query tokens, H query heads, R groups, G = H / R, P pages, S page size, D head size, N chosen blocks.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from openm3.kernels.device import DeviceBatch, Tiles
from openm3.kernels.gpu_shape import key_tile, overlapping, power_of_2
from openm3.kernels.gpu_tuning import Launch, tuning
from openm3.kernels.paged import PagedBatch

_LOG2_E = 1.4426950408889634
_LN_2 = tl.constexpr(0.6931471805599453)
_SPLITS = 64  # of a context; the same for all, so that a sequence gives the same bits whatever runs beside it
_SPLITS_CHOSEN = 16


def attend(
    q_THD: Tensor,
    k_cache_PRSD: Tensor,
    v_cache_PRSD: Tensor,
    block_ids_TRN: Tensor | None,
    batch: PagedBatch,
    scale: float,
    sequences: tuple[int, ...] | None = None,
    into: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention over the chosen blocks, or over all tokens where `block_ids_TRN` is None, and its log-sum-exp.

    With `sequences` only the rows of those are written, to `into`.
    """
    q_THD, k_cache_PRSD, v_cache_PRSD = contiguous(q_THD, k_cache_PRSD, v_cache_PRSD)
    block_ids_TRN = None if block_ids_TRN is None else block_ids_TRN.contiguous()
    on, into = batch.on(q_THD.device), into or empty_results(q_THD)
    few, many = on.few_and_many()
    if sequences is not None:
        few, many = (tuple(b for b in some if b in sequences) for some in (few, many))
    group_size = q_THD.shape[1] // k_cache_PRSD.shape[1]
    tuned, narrow = tuning(q_THD.device), 1 if q_THD.element_size() == 2 else 4
    args = (q_THD, k_cache_PRSD, v_cache_PRSD, block_ids_TRN, on, scale, *into)
    if block_ids_TRN is None:
        size = max(1, tuned.dense_many.rows // narrow // power_of_2(group_size))
        launches, splits = (tuned.dense_few, tuned.dense_many), _SPLITS
    else:
        size = 1
        launches, splits = (
            (tuned.sparse_few, tuned.sparse_many),
            min(_SPLITS_CHOSEN, power_of_2(block_ids_TRN.shape[2])),
        )
    if few:
        _launch(*args, on.tiles(1, few), launches[0], 1, splits)
    if many:
        _launch(*args, on.tiles(size, many), launches[1], size, 1)
    return into


def contiguous(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors with elements of a head side by side."""
    return tuple(x if x.stride(-1) == 1 else x.contiguous() for x in tensors)


def empty_results(q_THD: Tensor) -> tuple[Tensor, Tensor]:
    """Memory for the output and its log-sum-exp."""
    out_THD = torch.empty(q_THD.shape, dtype=q_THD.dtype, device=q_THD.device)
    return out_THD, torch.empty(q_THD.shape[:2], device=q_THD.device)


def _launch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ids: Tensor | None,
    on: DeviceBatch,
    scale: float,
    out: Tensor,
    lse: Tensor,
    tiles: Tiles,
    launch: Launch,
    size: int,
    splits: int,
) -> None:
    _, num_heads, head_size = q.shape
    num_groups, page_size = k.shape[1], k.shape[2]
    heads = num_heads // num_groups
    wide, group = power_of_2(head_size, 16), power_of_2(heads)
    part_out, part_lse = out, lse
    if splits > 1:
        part_out = torch.empty((len(tiles), num_heads, splits, head_size), device=q.device)
        part_lse = torch.empty((len(tiles), num_heads, splits), device=q.device)
    num_rows, waits = max(16, size * group), overlapping(q.device)
    _attend_kernel[(len(tiles), num_groups, splits)](
        q,
        k,
        v,
        tiles.row if ids is None else ids,
        part_out,
        part_lse,
        tiles.sequence,
        tiles.row,
        on.query_start,
        on.context_len,
        on.page_table,
        scale * _LOG2_E,
        q.stride(0),
        q.stride(1),
        *k.stride()[:3],
        *v.stride()[:3],
        on.page_table.stride(0),
        num_heads,
        0 if ids is None else ids.shape[2],
        CHOSEN=ids is not None,
        SPLITS=splits,
        S=page_size,
        D=head_size,
        HEADS=heads,
        TILE=size,
        BG=group,
        BT=num_rows // group,
        BD=wide,
        BS=key_tile(page_size, head_size, k.element_size()),
        BN=1 if ids is None else power_of_2(ids.shape[2]),
        num_warps=launch.warps,
        num_stages=launch.stages,
        **waits,
    )
    if splits > 1:
        _merge_kernel[(len(tiles), num_heads)](
            part_out,
            part_lse,
            out,
            lse,
            tiles.row,
            num_heads,
            SPLITS=splits,
            D=head_size,
            BD=wide,
            num_warps=4,
            **waits,
        )


@triton.jit
def attend_tile(q, k_ptr, v_ptr, k_ss, v_ss, first, position, context, acc, peak, total, scale, S: tl.constexpr,
                D: tl.constexpr, BD: tl.constexpr, BS: tl.constexpr, offset, MASKED: tl.constexpr):  # fmt: skip
    """One step of softmax: the rows' state after `BS` keys of the block whose first token is at position `first`."""
    d, s = tl.arange(0, BD), offset + tl.arange(0, BS)
    written = (s < S) & (first + s < context)  # what lies behind the context may be anything
    if MASKED or S % BS != 0 or D != BD:
        k = tl.load(k_ptr + s[None, :] * k_ss + d[:, None], mask=written[None, :] & (d < D)[:, None], other=0.0)
    else:
        k = tl.load(k_ptr + s[None, :] * k_ss + d[:, None])
    score = tl.dot(q, k, input_precision="ieee") * scale
    if MASKED or S % BS != 0:
        score = tl.where(written[None, :] & ((first + s)[None, :] <= position[:, None]), score, -float("inf"))
    new_peak = tl.maximum(peak, tl.max(score, 1))
    base = tl.where(new_peak == -float("inf"), 0.0, new_peak)
    weight = tl.exp2(score - base[:, None])
    kept = tl.exp2(peak - base)
    if MASKED or S % BS != 0 or D != BD:
        v = tl.load(v_ptr + s[:, None] * v_ss + d[None, :], mask=written[:, None] & (d < D)[None, :], other=0.0)
    else:
        v = tl.load(v_ptr + s[:, None] * v_ss + d[None, :])
    total = total * kept + tl.sum(weight, 1)
    acc = tl.dot(weight.to(v.dtype), v, acc * kept[:, None], input_precision="ieee")
    return acc, new_peak, total


@triton.jit
def _attend_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    ids_ptr,
    out_ptr,
    lse_ptr,
    tile_sequence_ptr,
    tile_row_ptr,
    start_ptr,
    context_ptr,
    table_ptr,
    scale,
    q_st,
    q_sh,
    k_sp,
    k_sr,
    k_ss,
    v_sp,
    v_sr,
    v_ss,
    table_stride,
    num_heads,
    num_chosen,
    CHOSEN: tl.constexpr,
    SPLITS: tl.constexpr,
    S: tl.constexpr,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    TILE: tl.constexpr,
    BG: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    BS: tl.constexpr,
    BN: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    if OVERLAPS:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    tile, group, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if not CHOSEN:
        tile = tl.num_programs(0) - 1 - tile  # the longest first
    sequence, row = tl.load(tile_sequence_ptr + tile), tl.load(tile_row_ptr + tile)
    stop, context = tl.load(start_ptr + sequence + 1), tl.load(context_ptr + sequence)
    m = tl.arange(0, BT * BG)
    token, g = m // BG, m % BG
    live = tl.minimum(stop - row, TILE)
    mine = (token < live) & (g < HEADS)
    first_position = context - stop + row
    position = first_position + token
    d = tl.arange(0, BD)
    head = group * HEADS + g
    where = (row + token).to(tl.int64) * q_st + head * q_sh
    q = tl.load(q_ptr + where[:, None] + d[None, :], mask=mine[:, None] & (d < D)[None, :], other=0.0)
    acc = tl.zeros([BT * BG, BD], tl.float32)
    total = tl.zeros([BT * BG], tl.float32)
    peak = tl.full([BT * BG], -float("inf"), tl.float32)
    pages = table_ptr + sequence * table_stride
    k_ptr += group * k_sr
    v_ptr += group * v_sr
    TILES: tl.constexpr = (S + BS - 1) // BS  # of a page
    if CHOSEN:
        ids_ptr += (row.to(tl.int64) * tl.num_programs(1) + group) * num_chosen
        n = tl.arange(0, BN)
        count = tl.sum((tl.load(ids_ptr + n, mask=n < num_chosen, other=-1) >= 0).to(tl.int32), 0)
        a_split = tl.cdiv(count, SPLITS)
        for i in range(split * a_split * TILES, tl.minimum(split * a_split + a_split, count) * TILES):
            block, offset = tl.load(ids_ptr + i // TILES), i % TILES * BS
            page = tl.load(pages + block).to(tl.int64)
            acc, peak, total = attend_tile(
                q, k_ptr + page * k_sp, v_ptr + page * v_sp, k_ss, v_ss, block * S, position, context,
                acc, peak, total, scale, S, D, BD, BS, offset, True,
            )  # fmt: skip
    else:
        num_pages = (first_position + live - 1) // S + 1
        a_split = tl.cdiv(num_pages, SPLITS)
        begin, end = split * a_split, tl.minimum(split * a_split + a_split, num_pages)
        unmasked = tl.maximum(tl.minimum((first_position + 1) // S, end), begin)  # pages that every row sees whole
        for i in range(begin * TILES, unmasked * TILES):
            block, offset = i // TILES, i % TILES * BS
            page = tl.load(pages + block).to(tl.int64)
            acc, peak, total = attend_tile(
                q, k_ptr + page * k_sp, v_ptr + page * v_sp, k_ss, v_ss, block * S, position, context,
                acc, peak, total, scale, S, D, BD, BS, offset, False,
            )  # fmt: skip
        for i in range(unmasked * TILES, end * TILES):
            block, offset = i // TILES, i % TILES * BS
            page = tl.load(pages + block).to(tl.int64)
            acc, peak, total = attend_tile(
                q, k_ptr + page * k_sp, v_ptr + page * v_sp, k_ss, v_ss, block * S, position, context,
                acc, peak, total, scale, S, D, BD, BS, offset, True,
            )  # fmt: skip
    read = total > 0
    total = tl.where(read, total, 1.0)
    out = acc / total[:, None]
    lse = tl.where(read, (peak + tl.log2(total)) * _LN_2, -float("inf"))
    if SPLITS == 1:
        to = (row + token).to(tl.int64) * num_heads + head
    else:
        to = (tile.to(tl.int64) * num_heads + head) * SPLITS + split
    tl.store(out_ptr + to[:, None] * D + d[None, :], out, mask=mine[:, None] & (d < D)[None, :])
    tl.store(lse_ptr + to, lse, mask=mine)


@triton.jit
def _merge_kernel(
    part_out_ptr,
    part_lse_ptr,
    out_ptr,
    lse_ptr,
    tile_row_ptr,
    num_heads,
    SPLITS: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    if OVERLAPS:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    tile, head = tl.program_id(0), tl.program_id(1)
    part, d = tl.arange(0, SPLITS), tl.arange(0, BD)
    where = (tile.to(tl.int64) * num_heads + head) * SPLITS + part
    lse = tl.load(part_lse_ptr + where)
    peak = tl.max(lse, 0)
    share = tl.exp2((lse - peak) / _LN_2)
    total = tl.sum(share, 0)
    part_out = tl.load(part_out_ptr + where[:, None] * D + d[None, :], mask=(d < D)[None, :], other=0.0)
    out = tl.sum(part_out * share[:, None], 0) / total
    to = tl.load(tile_row_ptr + tile).to(tl.int64) * num_heads + head
    tl.store(out_ptr + to * D + d, out, mask=d < D)
    tl.store(lse_ptr + to, peak + tl.log2(total) * _LN_2)
