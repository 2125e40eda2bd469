"""Triton's alignment loss with its gradients (MSA, arXiv 2606.13392, section 1.4).

By query: the value, the index scores' log-sum-exp and the gradient of the index query. By block over the queries that
read it: the gradient of the index key, in their order and without atomic additions.

Letters: T packed query tokens, H query heads, R groups, X index key heads, P pages, S page size, D head size, C index
head size, N chosen blocks.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from openm3.kernels.gpu_attention import attend
from openm3.kernels.gpu_shape import key_tile, power_of_2
from openm3.kernels.paged import PagedBatch

_LOG2_E = tl.constexpr(1.4426950408889634)
_LN_2 = tl.constexpr(0.6931471805599453)


def alignment_loss(
    index_q_TRC: Tensor,
    index_k_PXSC: Tensor,
    q_THD: Tensor,
    k_PRSD: Tensor,
    lse_TH: Tensor,
    block_ids_TRN: Tensor | None,
    batch: PagedBatch,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean loss, fp32, and its gradients of the index queries and keys; over the whole prefix without ids."""
    on, everything = batch.on(q_THD.device), block_ids_TRN is None
    index_q, index_k, q, k = (x.contiguous() for x in (index_q_TRC, index_k_PXSC, q_THD, k_PRSD))
    num_tokens, num_heads, head_size = q.shape
    num_groups, page_size = k.shape[1], k.shape[2]
    key_heads, index_size = index_k.shape[1], index_k.shape[3]
    if block_ids_TRN is None:
        _, lse_TH = attend(q, k, k, None, batch, scale)
        ids, readers_start, readers_entry = on.position, on.position, on.position  # not read
        num_chosen = 1
    else:
        ids, readers = block_ids_TRN.contiguous(), on.readers(block_ids_TRN)
        readers_start, readers_entry, num_chosen = readers.start, readers.entry, ids.shape[2]
    lse_TH, heads = lse_TH.contiguous(), num_heads // num_groups
    loss_TR = torch.empty((num_tokens, num_groups), device=q.device)
    index_lse_TR = torch.empty_like(loss_TR)
    dindex_q, dindex_k = torch.empty_like(index_q), torch.zeros_like(index_k)
    index_scale, count = float(index_size**-0.5), num_tokens * num_groups
    group = power_of_2(heads)
    sizes = {
        "ALL": everything,
        "S": page_size,
        "D": head_size,
        "C": index_size,
        "HEADS": heads,
        "BD": power_of_2(head_size, 16),
        "BC": power_of_2(index_size, 16),
        "BS": min(64, key_tile(page_size, max(head_size, index_size), k.element_size())),
        "BG": group,
    }
    _query_kernel[(num_tokens, num_groups)](
        index_q,
        index_k,
        q,
        k,
        lse_TH,
        ids,
        loss_TR,
        index_lse_TR,
        dindex_q,
        on.sequence,
        on.position,
        on.context_len,
        on.page_table,
        on.page_table.stride(0),
        scale,
        index_scale,
        1.0 / count,
        key_heads,
        num_chosen,
        BM=max(16, group),
        BN=power_of_2(num_chosen),
        **sizes,
        num_warps=4,
        num_stages=2,
    )
    _key_kernel[(on.num_columns * key_heads, triton.cdiv(page_size, sizes["BS"]))](
        index_q,
        index_k,
        q,
        k,
        lse_TH,
        index_lse_TR,
        readers_start,
        readers_entry,
        dindex_k,
        on.column_sequence,
        on.column_block,
        on.query_start,
        on.position,
        on.context_len,
        on.page_table,
        on.page_table.stride(0),
        scale,
        index_scale,
        1.0 / count,
        num_groups,
        key_heads,
        num_chosen,
        BT=16,
        **sizes,
        num_warps=8,
        num_stages=1,
    )
    return loss_TR.sum() / count, dindex_q, dindex_k


@triton.jit
def _query_kernel(
    index_q_ptr,
    index_k_ptr,
    q_ptr,
    k_ptr,
    lse_ptr,
    ids_ptr,
    loss_ptr,
    index_lse_ptr,
    dindex_q_ptr,
    sequence_ptr,
    position_ptr,
    context_ptr,
    table_ptr,
    table_stride,
    scale,
    index_scale,
    weight,
    key_heads,
    num_chosen,
    ALL: tl.constexpr,
    S: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    HEADS: tl.constexpr,
    BD: tl.constexpr,
    BC: tl.constexpr,
    BS: tl.constexpr,
    BG: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    token, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    num_groups = tl.num_programs(1)
    sequence, position = tl.load(sequence_ptr + token), tl.load(position_ptr + token)
    pages = table_ptr + sequence * table_stride
    x = tl.where(key_heads > 1, group, 0)
    g, d, c = tl.arange(0, BM), tl.arange(0, BD), tl.arange(0, BC)
    head = (token * num_groups + group) * HEADS + g
    q = tl.load(q_ptr + head[:, None] * D + d[None, :], mask=(g < HEADS)[:, None] & (d < D)[None, :], other=0.0)
    lse = tl.load(lse_ptr + head, mask=g < HEADS, other=0.0)
    row = token * num_groups + group
    index_q = tl.load(index_q_ptr + row * C + c, mask=c < C, other=0.0).to(tl.float32) * index_scale
    if ALL:
        count = position // S + 1
    else:
        n = tl.arange(0, BN)
        ids_ptr += row * num_chosen
        count = tl.sum((tl.load(ids_ptr + n, mask=n < num_chosen, other=-1) >= 0).to(tl.int32), 0)
    TILES: tl.constexpr = (S + BS - 1) // BS
    peak = tl.full([BS], -float("inf"), tl.float32)
    total = tl.zeros([BS], tl.float32)
    for j in range(count * TILES):
        i, offset = j // TILES, j % TILES * BS
        block = i if ALL else tl.load(ids_ptr + i)
        page = tl.load(pages + block).to(tl.int64)
        base = (page * key_heads + x) * S * C
        s = offset + tl.arange(0, BS)
        seen = (s < S) & (block * S + s <= position)
        where = base + s[:, None] * C + c[None, :]
        index_k = tl.load(index_k_ptr + where, mask=seen[:, None] & (c < C)[None, :], other=0.0).to(tl.float32)
        score = tl.where(seen, tl.sum(index_k * index_q[None, :], 1), -float("inf"))
        new_peak = tl.maximum(peak, score)
        floor = tl.where(new_peak == -float("inf"), 0.0, new_peak)
        total = total * tl.exp(peak - floor) + tl.exp(score - floor)
        peak = new_peak
    top = tl.max(peak, 0)
    index_lse = top + tl.log(tl.sum(total * tl.exp(peak - top), 0))
    loss = tl.zeros([BS], tl.float32)
    dindex_q = tl.zeros([BC], tl.float32)
    for j in range(count * TILES):
        i, offset = j // TILES, j % TILES * BS
        block = i if ALL else tl.load(ids_ptr + i)
        page = tl.load(pages + block).to(tl.int64)
        index_base, base = (page * key_heads + x) * S * C, (page * num_groups + group) * S * D
        s = offset + tl.arange(0, BS)
        seen = (s < S) & (block * S + s <= position)
        where = index_base + s[:, None] * C + c[None, :]
        index_k = tl.load(index_k_ptr + where, mask=seen[:, None] & (c < C)[None, :], other=0.0).to(tl.float32)
        log_student = tl.where(seen, tl.sum(index_k * index_q[None, :], 1) - index_lse, 0.0)
        k = tl.load(k_ptr + base + s[:, None] * D + d[None, :], mask=seen[:, None] & (d < D)[None, :], other=0.0)
        score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale - lse[:, None]
        share = tl.where((g < HEADS)[:, None] & seen[None, :], score, -float("inf"))
        teacher = tl.sum(tl.exp(share), 0) / HEADS
        some = teacher > 0
        loss += tl.where(some, teacher * (tl.log(tl.where(some, teacher, 1.0)) - log_student), 0.0)
        change = tl.where(seen, tl.exp(log_student) - teacher, 0.0)
        dindex_q += tl.sum(index_k * change[:, None], 0)
    tl.store(loss_ptr + row, tl.sum(loss, 0))
    tl.store(index_lse_ptr + row, index_lse)
    tl.store(dindex_q_ptr + row * C + c, dindex_q * (index_scale * weight), mask=c < C)


@triton.jit
def _key_kernel(
    index_q_ptr,
    index_k_ptr,
    q_ptr,
    k_ptr,
    lse_ptr,
    index_lse_ptr,
    reader_start_ptr,
    entry_ptr,
    dindex_k_ptr,
    column_sequence_ptr,
    column_block_ptr,
    query_start_ptr,
    position_ptr,
    context_ptr,
    table_ptr,
    table_stride,
    scale,
    index_scale,
    weight,
    num_groups,
    key_heads,
    num_chosen,
    ALL: tl.constexpr,
    S: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    HEADS: tl.constexpr,
    BD: tl.constexpr,
    BC: tl.constexpr,
    BS: tl.constexpr,
    BG: tl.constexpr,
    BT: tl.constexpr,
):
    column, x = tl.program_id(0) // key_heads, tl.program_id(0) % key_heads
    sequence, block = tl.load(column_sequence_ptr + column), tl.load(column_block_ptr + column)
    context = tl.load(context_ptr + sequence)
    page = tl.load(table_ptr + sequence * table_stride + block).to(tl.int64)
    s, d, c = tl.program_id(1) * BS + tl.arange(0, BS), tl.arange(0, BD), tl.arange(0, BC)
    t, m = tl.arange(0, BT), tl.arange(0, BT * BG)
    key_position = block * S + s
    written = (s < S) & (key_position < context)
    index_where = (page * key_heads + x) * S * C + s[:, None] * C + c[None, :]
    index_mask = written[:, None] & (c < C)[None, :]
    index_k = tl.load(index_k_ptr + index_where, mask=index_mask, other=0.0)
    dindex_k = tl.zeros([BS, BC], tl.float32)
    groups = num_groups // key_heads
    for group in range(x * groups, x * groups + groups):
        where = (page * num_groups + group) * S * D + s[:, None] * D + d[None, :]
        k = tl.load(k_ptr + where, mask=written[:, None] & (d < D)[None, :], other=0.0)
        if ALL:
            stop = tl.load(query_start_ptr + sequence + 1).to(tl.int64)
            begin = tl.maximum(stop - context + block * S, tl.load(query_start_ptr + sequence).to(tl.int64))
        else:
            begin = tl.load(reader_start_ptr + column * num_groups + group)
            stop = tl.load(reader_start_ptr + column * num_groups + group + 1)
        for first in range(begin, stop, BT):
            live = first + t < stop
            heads_live = (first + m // BG < stop) & (m % BG < HEADS)
            if ALL:
                token, tokens = first + t, first + m // BG
            else:
                token = tl.load(entry_ptr + first + t, mask=live, other=0) // (num_groups * num_chosen)
                tokens = tl.load(entry_ptr + first + m // BG, mask=heads_live, other=0) // (num_groups * num_chosen)
            head = (tokens * num_groups + group) * HEADS + m % BG
            q = tl.load(q_ptr + head[:, None] * D + d[None, :], mask=heads_live[:, None] & (d < D)[None, :], other=0.0)
            lse = tl.load(lse_ptr + head, mask=heads_live, other=0.0)
            share = tl.exp(tl.dot(q, tl.trans(k), input_precision="ieee") * scale - lse[:, None])
            share = tl.where(heads_live[:, None], share, 0.0)
            teacher = tl.sum(tl.reshape(share, [BT, BG, BS]), 1) / HEADS
            row = token * num_groups + group
            index_q = tl.load(
                index_q_ptr + row[:, None] * C + c[None, :], mask=live[:, None] & (c < C)[None, :], other=0.0
            )
            index_lse = tl.load(index_lse_ptr + row, mask=live, other=0.0)
            position = tl.load(position_ptr + token, mask=live, other=-1)
            log_student = tl.dot(index_q, tl.trans(index_k), input_precision="ieee") * index_scale - index_lse[:, None]
            seen = written[None, :] & (key_position[None, :] <= position[:, None])
            change = tl.where(seen, tl.exp(tl.where(seen, log_student, 0.0)) - teacher, 0.0)
            dindex_k = tl.dot(tl.trans(change).to(index_q.dtype), index_q, dindex_k, input_precision="ieee")
    tl.store(dindex_k_ptr + index_where, dindex_k * (index_scale * weight), mask=index_mask)
