"""Triton's sparse attention by block: a block is read once for many queries. Letters as in `op.py`.

The selection is turned round. A program takes a block of a group and the queries that read it, 128 rows (queries x
heads of the group) at a time, as one matrix product; each leaves a partial result in the place of its entry in the
selection, with its log-sum-exp, and a second kernel merges the N parts of a query in their order (arXiv 2606.13392,
section 1.6, calls it KV-outer). Nothing is added atomically.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from openm3.kernels.gpu_shape import num_processors, power_of_2
from openm3.kernels.gpu_tuning import tuning
from openm3.kernels.paged import PagedBatch

_LOG2_E = 1.4426950408889634
_LN_2 = tl.constexpr(0.6931471805599453)
_PARTS_BYTES = 1 << 31  # of partial results at once


def attend_by_block(
    q_THD: Tensor,
    k_cache_PRSD: Tensor,
    v_cache_PRSD: Tensor,
    block_ids_TRN: Tensor,
    batch: PagedBatch,
    scale: float,
    rows: slice,
    into: tuple[Tensor, Tensor],
) -> None:
    """As `sparse_attention`, for some rows, whose results are written to `into`; a block must be one tile."""
    a_token = q_THD[0].numel() * block_ids_TRN.shape[2] * q_THD.element_size()
    at_once = max(1, _PARTS_BYTES // a_token)
    for first in range(rows.start, rows.stop, at_once):
        some = slice(first, min(first + at_once, rows.stop))
        ids, results = block_ids_TRN[some].contiguous(), (x[some] for x in into)
        _attend_rows(q_THD[some], k_cache_PRSD, v_cache_PRSD, ids, batch, scale, some, *results)


def _attend_rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ids: Tensor,
    batch: PagedBatch,
    scale: float,
    rows: slice,
    out: Tensor,
    lse: Tensor,
) -> None:
    on, launch = batch.on(q.device), tuning(q.device).by_block
    num_tokens, num_heads, head_size = q.shape
    num_groups, page_size = k.shape[1], k.shape[2]
    heads, num_chosen = num_heads // num_groups, ids.shape[2]
    readers = on.readers(ids, rows)
    part_out = torch.empty((ids.numel(), heads, head_size), dtype=q.dtype, device=q.device)
    part_lse = torch.empty((ids.numel(), heads), device=q.device)
    group, wide = power_of_2(heads), power_of_2(head_size, 16)
    blocks = on.num_columns * num_groups
    shares = max(1, launch.programs * num_processors(q.device) // blocks)
    _block_kernel[(blocks, shares)](
        q,
        k,
        v,
        part_out,
        part_lse,
        readers.start,
        readers.entry,
        on.column_sequence,
        on.column_block,
        on.position[rows],
        on.context_len,
        on.page_table,
        on.page_table.stride(0),
        q.stride(0),
        q.stride(1),
        *k.stride()[:3],
        *v.stride()[:3],
        scale * _LOG2_E,
        num_groups,
        num_chosen,
        S=page_size,
        D=head_size,
        HEADS=heads,
        BG=group,
        BT=max(1, launch.rows // group),
        BD=wide,
        BS=power_of_2(page_size, 16),
        num_warps=launch.warps,
        num_stages=launch.stages,
    )
    _merge_kernel[(num_tokens, num_groups)](
        part_out,
        part_lse,
        ids,
        out,
        lse,
        num_chosen,
        D=head_size,
        HEADS=heads,
        BG=group,
        BD=wide,
        BN=power_of_2(num_chosen),
        num_warps=4,
    )


@triton.jit
def _block_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    part_out_ptr,
    part_lse_ptr,
    start_ptr,
    entry_ptr,
    column_sequence_ptr,
    column_block_ptr,
    position_ptr,
    context_ptr,
    table_ptr,
    table_stride,
    q_st,
    q_sh,
    k_sp,
    k_sr,
    k_ss,
    v_sp,
    v_sr,
    v_ss,
    scale,
    num_groups,
    num_chosen,
    S: tl.constexpr,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    BG: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    BS: tl.constexpr,
):
    begin, end = tl.load(start_ptr + tl.program_id(0)), tl.load(start_ptr + tl.program_id(0) + 1)
    begin += tl.program_id(1) * BT
    if begin < end:
        column, group = tl.program_id(0) // num_groups, tl.program_id(0) % num_groups
        sequence, block = tl.load(column_sequence_ptr + column), tl.load(column_block_ptr + column)
        page = tl.load(table_ptr + sequence * table_stride + block).to(tl.int64)
        s, d, m = tl.arange(0, BS), tl.arange(0, BD), tl.arange(0, BT * BG)
        g = m % BG
        key_position = block * S + s
        written = (s < S) & (key_position < tl.load(context_ptr + sequence))
        mask = written[:, None] & (d < D)[None, :]
        k = tl.load(k_ptr + page * k_sp + group * k_sr + s[:, None] * k_ss + d[None, :], mask=mask, other=0.0)
        v = tl.load(v_ptr + page * v_sp + group * v_sr + s[:, None] * v_ss + d[None, :], mask=mask, other=0.0)
        for first in range(begin, end, BT * tl.num_programs(1)):
            mine = (first + m // BG < end) & (g < HEADS)
            entry = tl.load(entry_ptr + first + m // BG, mask=mine, other=0)
            token = entry // (num_groups * num_chosen)
            position = tl.load(position_ptr + token, mask=mine, other=0)
            where = token * q_st + (group * HEADS + g) * q_sh
            q = tl.load(q_ptr + where[:, None] + d[None, :], mask=mine[:, None] & (d < D)[None, :], other=0.0)
            score = tl.dot(q, tl.trans(k)) * scale
            seen = written[None, :] & (key_position[None, :] <= position[:, None])
            score = tl.where(seen, score, -float("inf"))
            peak = tl.max(score, 1)
            weight = tl.exp2(score - tl.where(peak == -float("inf"), 0.0, peak)[:, None])
            total = tl.sum(weight, 1)
            out = tl.dot(weight.to(v.dtype), v) / tl.where(total > 0, total, 1.0)[:, None]
            to = entry * HEADS + g
            tl.store(
                part_out_ptr + to[:, None] * D + d[None, :],
                out.to(part_out_ptr.dtype.element_ty),
                mask=mine[:, None] & (d < D)[None, :],
            )
            tl.store(part_lse_ptr + to, peak + tl.log2(tl.where(total > 0, total, 1.0)), mask=mine)


@triton.jit
def _merge_kernel(
    part_out_ptr,
    part_lse_ptr,
    ids_ptr,
    out_ptr,
    lse_ptr,
    num_chosen,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    BG: tl.constexpr,
    BD: tl.constexpr,
    BN: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    n, g, d = tl.arange(0, BN), tl.arange(0, BG), tl.arange(0, BD)
    chosen = tl.load(ids_ptr + row * num_chosen + n, mask=n < num_chosen, other=-1) >= 0
    count = tl.sum(chosen.to(tl.int32), 0)
    entry = row * num_chosen + n
    lse = tl.load(
        part_lse_ptr + entry[:, None] * HEADS + g[None, :],
        mask=chosen[:, None] & (g < HEADS)[None, :],
        other=-float("inf"),
    )
    peak = tl.max(lse, 0)
    peak = tl.where(g < HEADS, peak, 0.0)
    total = tl.sum(tl.exp2(lse - peak[None, :]), 0)
    acc = tl.zeros([BG, BD], tl.float32)
    mask = (g < HEADS)[:, None] & (d < D)[None, :]
    for i in range(count):
        part = (row * num_chosen + i) * HEADS + g
        share = tl.exp2(tl.load(part_lse_ptr + part, mask=g < HEADS, other=-float("inf")) - peak)
        acc += tl.load(part_out_ptr + part[:, None] * D + d[None, :], mask=mask, other=0.0) * share[:, None]
    head = row * HEADS + g
    tl.store(out_ptr + head[:, None] * D + d[None, :], acc / tl.where(total > 0, total, 1.0)[:, None], mask=mask)
    tl.store(lse_ptr + head, (peak + tl.log2(tl.where(total > 0, total, 1.0))) * _LN_2, mask=g < HEADS)
