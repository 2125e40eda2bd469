"""Triton's backward of sparse attention. Letters as in `op.py`.

dq is computed by query, dk and dv by block over the queries that read it, in their order: no atomic additions, so the
same inputs give the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from openm3.kernels.gpu_shape import key_tile, power_of_2
from openm3.kernels.paged import PagedBatch

_LOG2_E = 1.4426950408889634
_ROWS = 64  # of the queries that read a block, at once


def sparse_attention_backward(
    dout_THD: Tensor,
    q_THD: Tensor,
    k_cache_PRSD: Tensor,
    v_cache_PRSD: Tensor,
    out_THD: Tensor,
    lse_TH: Tensor,
    block_ids_TRN: Tensor,
    batch: PagedBatch,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, each like its tensor; no page may belong to two sequences."""
    on = batch.on(q_THD.device)
    q, dout, ids = q_THD.contiguous(), dout_THD.contiguous(), block_ids_TRN.contiguous()
    k, v = k_cache_PRSD.contiguous(), v_cache_PRSD.contiguous()
    out, lse_TH = out_THD.contiguous(), lse_TH.contiguous()
    num_tokens, num_heads, head_size = q.shape
    num_groups, page_size = k.shape[1], k.shape[2]
    heads, num_chosen = num_heads // num_groups, ids.shape[2]
    delta_TH = torch.empty_like(lse_TH)  # the first kernel writes it, the second reads it
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    group, wide = power_of_2(heads), power_of_2(head_size, 16)
    tile = min(64, key_tile(page_size, head_size, k.element_size()))
    sizes = {"S": page_size, "D": head_size, "HEADS": heads, "BD": wide, "BS": tile, "BG": group}
    _dq_kernel[(num_tokens, num_groups)](
        q,
        k,
        v,
        dout,
        out,
        lse_TH,
        delta_TH,
        ids,
        dq,
        on.sequence,
        on.position,
        on.context_len,
        on.page_table,
        on.page_table.stride(0),
        scale,
        scale * _LOG2_E,
        num_chosen,
        BT=max(1, 16 // group),
        BN=power_of_2(num_chosen),
        **sizes,
        num_warps=4,
        num_stages=2,
    )
    readers = on.readers(ids)
    rows = _ROWS if k.element_size() == 2 else 32
    _dkv_kernel[(on.num_columns * num_groups, triton.cdiv(page_size, tile))](
        q,
        k,
        v,
        dout,
        lse_TH,
        delta_TH,
        readers.start,
        readers.entry,
        dk,
        dv,
        on.column_sequence,
        on.column_block,
        on.position,
        on.context_len,
        on.page_table,
        on.page_table.stride(0),
        scale,
        scale * _LOG2_E,
        num_groups,
        num_chosen,
        BT=max(1, max(rows, 16) // group),
        **sizes,
        num_warps=4,
        num_stages=2,
    )
    return dq, dk, dv


@triton.jit
def _dq_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    dout_ptr,
    out_ptr,
    lse_ptr,
    delta_ptr,
    ids_ptr,
    dq_ptr,
    sequence_ptr,
    position_ptr,
    context_ptr,
    table_ptr,
    table_stride,
    scale,
    scale_log2,
    num_chosen,
    S: tl.constexpr,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    BD: tl.constexpr,
    BS: tl.constexpr,
    BG: tl.constexpr,
    BT: tl.constexpr,
    BN: tl.constexpr,
):
    token, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    num_groups = tl.num_programs(1)
    sequence, position = tl.load(sequence_ptr + token), tl.load(position_ptr + token)
    context = tl.load(context_ptr + sequence)
    pages = table_ptr + sequence * table_stride
    g, d = tl.arange(0, BT * BG), tl.arange(0, BD)
    mine = g < HEADS
    head = token * num_groups * HEADS + group * HEADS + g
    mask = mine[:, None] & (d < D)[None, :]
    q = tl.load(q_ptr + head[:, None] * D + d[None, :], mask=mask, other=0.0)
    dout = tl.load(dout_ptr + head[:, None] * D + d[None, :], mask=mask, other=0.0)
    out = tl.load(out_ptr + head[:, None] * D + d[None, :], mask=mask, other=0.0)
    lse = tl.load(lse_ptr + head, mask=mine, other=0.0) * 1.4426950408889634
    delta = tl.sum(dout.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(delta_ptr + head, delta, mask=mine)
    dq = tl.zeros([BT * BG, BD], tl.float32)
    TILES: tl.constexpr = (S + BS - 1) // BS
    ids_ptr += (token * num_groups + group) * num_chosen
    n = tl.arange(0, BN)
    count = tl.sum((tl.load(ids_ptr + n, mask=n < num_chosen, other=-1) >= 0).to(tl.int32), 0)
    for j in range(count * TILES):
        i, offset = j // TILES, j % TILES * BS
        block = tl.load(ids_ptr + i)
        page = tl.load(pages + block).to(tl.int64)
        base = (page * num_groups + group) * S * D
        s = offset + tl.arange(0, BS)
        seen = (s < S) & (block * S + s <= position) & (block * S + s < context)
        where = base + s[:, None] * D + d[None, :]
        k = tl.load(k_ptr + where, mask=seen[:, None] & (d < D)[None, :], other=0.0)
        v = tl.load(v_ptr + where, mask=seen[:, None] & (d < D)[None, :], other=0.0)
        score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2 - lse[:, None]
        weight = tl.exp2(tl.where(seen[None, :], score, -float("inf")))
        change = weight * (tl.dot(dout, tl.trans(v), input_precision="ieee") - delta[:, None])
        dq = tl.dot(change.to(k.dtype), k, dq, input_precision="ieee")
    tl.store(dq_ptr + head[:, None] * D + d[None, :], dq * scale, mask=mask)


@triton.jit
def _dkv_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    dout_ptr,
    lse_ptr,
    delta_ptr,
    start_ptr,
    entry_ptr,
    dk_ptr,
    dv_ptr,
    column_sequence_ptr,
    column_block_ptr,
    position_ptr,
    context_ptr,
    table_ptr,
    table_stride,
    scale,
    scale_log2,
    num_groups,
    num_chosen,
    S: tl.constexpr,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    BD: tl.constexpr,
    BS: tl.constexpr,
    BG: tl.constexpr,
    BT: tl.constexpr,
):
    column, group = tl.program_id(0) // num_groups, tl.program_id(0) % num_groups
    sequence, block = tl.load(column_sequence_ptr + column), tl.load(column_block_ptr + column)
    context = tl.load(context_ptr + sequence)
    page = tl.load(table_ptr + sequence * table_stride + block).to(tl.int64)
    s, d, m = tl.program_id(1) * BS + tl.arange(0, BS), tl.arange(0, BD), tl.arange(0, BT * BG)
    key_position = block * S + s
    written = (s < S) & (key_position < context)
    where = (page * num_groups + group) * S * D + s[:, None] * D + d[None, :]
    mask = written[:, None] & (d < D)[None, :]
    k = tl.load(k_ptr + where, mask=mask, other=0.0)
    v = tl.load(v_ptr + where, mask=mask, other=0.0)
    dk, dv = tl.zeros([BS, BD], tl.float32), tl.zeros([BS, BD], tl.float32)
    begin, end = tl.load(start_ptr + tl.program_id(0)), tl.load(start_ptr + tl.program_id(0) + 1)
    g = m % BG
    for first in range(begin, end, BT):
        mine = (first + m // BG < end) & (g < HEADS)
        token = tl.load(entry_ptr + first + m // BG, mask=mine, other=0) // (num_groups * num_chosen)
        position = tl.load(position_ptr + token, mask=mine, other=-1)
        head = (token * num_groups + group) * HEADS + g
        live = mine[:, None] & (d < D)[None, :]
        q = tl.load(q_ptr + head[:, None] * D + d[None, :], mask=live, other=0.0)
        dout = tl.load(dout_ptr + head[:, None] * D + d[None, :], mask=live, other=0.0)
        lse = tl.load(lse_ptr + head, mask=mine, other=0.0) * 1.4426950408889634
        delta = tl.load(delta_ptr + head, mask=mine, other=0.0)
        seen = written[:, None] & (key_position[:, None] <= position[None, :])
        score = tl.dot(k, tl.trans(q), input_precision="ieee") * scale_log2 - lse[None, :]
        weight = tl.exp2(tl.where(seen, score, -float("inf")))
        dv = tl.dot(weight.to(dout.dtype), dout, dv, input_precision="ieee")
        change = weight * (tl.dot(v, tl.trans(dout), input_precision="ieee") - delta[None, :])
        dk = tl.dot(change.to(q.dtype), q, dk, input_precision="ieee")
    tl.store(dk_ptr + where, dk * scale, mask=mask)
    tl.store(dv_ptr + where, dv, mask=mask)
