"""Few queries gather their own blocks; many queries are ordered by block. Letters as in `op.py`.

By block: each block is read once for all the queries that chose it, as one matrix product, and the partial results
of a query are merged by running maximum and sum (arXiv 2606.13392, section 1.6 calls it KV-outer).
"""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.kernels.paged import PagedBatch, Span

_FEW_QUERIES = 4


def sparse_attention(
    q_THD: Tensor,
    k_cache_PRSD: Tensor,
    v_cache_PRSD: Tensor,
    block_ids_TRN: Tensor,
    batch: PagedBatch,
    scale: float,
) -> tuple[Tensor, Tensor]:
    parts = [
        (_attend_by_query if span.num_queries <= _FEW_QUERIES else _attend_by_block)(
            q_THD[span.rows], k_cache_PRSD, v_cache_PRSD, block_ids_TRN[span.rows].long(), span, scale
        )
        for span in batch.spans
    ]
    return torch.cat([out for out, _ in parts]), torch.cat([lse for _, lse in parts])


def _attend_by_query(
    q_tHD: Tensor, k_cache_PRSD: Tensor, v_cache_PRSD: Tensor, block_ids_tRN: Tensor, span: Span, scale: float
) -> tuple[Tensor, Tensor]:
    _, num_groups, page_size, _ = k_cache_PRSD.shape
    page_tRN, group_R1 = span.pages[block_ids_tRN.clamp(min=0)], torch.arange(num_groups)[:, None]
    position_tRNS = block_ids_tRN[..., None] * page_size + torch.arange(page_size)
    own_t111 = torch.arange(span.first_position, span.context_len)[:, None, None, None]
    hidden_tRNS = (position_tRNS > own_t111) | (block_ids_tRN < 0)[..., None]
    scores_tRGL = q_tHD.unflatten(1, (num_groups, -1)) @ k_cache_PRSD[page_tRN, group_R1].flatten(2, 3).mT
    scores_tRGL = (scores_tRGL.to(_sum_dtype(q_tHD)) * scale).masked_fill(
        hidden_tRNS.flatten(2)[:, :, None], -torch.inf
    )
    v_tRLD = v_cache_PRSD[page_tRN, group_R1].masked_fill_(hidden_tRNS[..., None], 0).flatten(2, 3)
    out_tRGD = scores_tRGL.softmax(-1).to(q_tHD.dtype) @ v_tRLD
    return out_tRGD.flatten(1, 2), scores_tRGL.logsumexp(-1).flatten(1)


def _attend_by_block(
    q_tHD: Tensor, k_cache_PRSD: Tensor, v_cache_PRSD: Tensor, block_ids_tRN: Tensor, span: Span, scale: float
) -> tuple[Tensor, Tensor]:
    _, num_groups, page_size, _ = k_cache_PRSD.shape
    q_RtGD = q_tHD.unflatten(1, (num_groups, -1)).transpose(0, 1)
    dtype = _sum_dtype(q_tHD)
    out_RtGD = torch.zeros(q_RtGD.shape, dtype=dtype)
    peak_RtG1 = torch.full((*q_RtGD.shape[:3], 1), -torch.inf, dtype=dtype)
    total_RtG1 = torch.zeros_like(peak_RtG1)
    position_t = torch.arange(span.first_position, span.context_len)
    for r in range(num_groups):
        readers = _readers_by_block(block_ids_tRN[:, r], len(span.pages))
        for block, query_n in enumerate(readers):
            if not len(query_n):
                continue
            filled = min(page_size, span.context_len - block * page_size)
            k_SD, v_SD = (cache[span.pages[block], r, :filled] for cache in (k_cache_PRSD, v_cache_PRSD))
            scores_nGS = (q_RtGD[r, query_n] @ k_SD.mT).to(dtype) * scale
            if block * page_size + filled > span.first_position:
                position_S = torch.arange(block * page_size, block * page_size + filled)
                scores_nGS.masked_fill_((position_S > position_t[query_n, None])[:, None], -torch.inf)
            old_nG1 = peak_RtG1[r, query_n]
            peak_nG1 = torch.maximum(old_nG1, scores_nGS.amax(-1, keepdim=True))
            kept_nG1 = (old_nG1 - peak_nG1).exp()
            weights_nGS = (scores_nGS - peak_nG1).exp()
            peak_RtG1[r, query_n] = peak_nG1
            total_RtG1[r, query_n] = total_RtG1[r, query_n] * kept_nG1 + weights_nGS.sum(-1, keepdim=True)
            partial_nGD = (weights_nGS.to(v_SD.dtype) @ v_SD).to(dtype)
            out_RtGD[r, query_n] = out_RtGD[r, query_n] * kept_nG1 + partial_nGD
    out_tHD = (out_RtGD / total_RtG1).to(q_tHD.dtype).transpose(0, 1).flatten(1, 2)
    return out_tHD, (peak_RtG1 + total_RtG1.log())[..., 0].transpose(0, 1).flatten(1)


def _readers_by_block(block_ids_tN: Tensor, num_blocks: int) -> tuple[Tensor, ...]:
    """For every block the queries that chose it, ascending: the selection, turned round."""
    order = block_ids_tN.flatten().argsort(stable=True)
    counts = torch.bincount(block_ids_tN.flatten() + 1, minlength=num_blocks + 1).tolist()
    return (order // block_ids_tN.shape[1]).split(counts)[1:]  # the first part holds the -1 of short lists


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    """Sums of bf16 are fp32; float64, for checks of gradients, stays."""
    return torch.promote_types(tensor.dtype, torch.float32)
