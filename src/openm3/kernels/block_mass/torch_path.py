"""One matrix product a row over its pages, on any device. Letters as in `op.py`; V: blocks that a row reads."""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.kernels.block_mass.rows import WatchedRows
from openm3.kernels.paged import PagedBatch


def block_mass(
    q_THD: Tensor,
    k_cache_PRSD: Tensor,
    watched: WatchedRows,
    batch: PagedBatch,
    block_ids_TRN: Tensor | None,
    scale: float,
) -> Tensor:
    _, num_groups, page_size, _ = k_cache_PRSD.shape
    device = q_THD.device
    mass_WRB = torch.zeros(len(watched.row_W), num_groups, batch.page_table_BP.shape[1], device=device)
    group_R1 = torch.arange(num_groups, device=device)[:, None]
    offset_S = torch.arange(page_size, device=device)
    rows = zip(watched.row_W.tolist(), watched.sequence_W.tolist(), watched.position_W.tolist(), strict=True)
    for mass_RB, (row, sequence, own_position) in zip(mass_WRB, rows, strict=True):
        pages = batch.spans[sequence].pages[: own_position // page_size + 1].to(device)
        q_RGD = q_THD[row].unflatten(0, (num_groups, -1))
        if block_ids_TRN is None:
            blocks_RV = torch.arange(len(pages), device=device).expand(num_groups, -1)
            k_RVSD = k_cache_PRSD[pages].transpose(0, 1)
        else:
            blocks_RV = block_ids_TRN[row].long()
            k_RVSD = k_cache_PRSD[pages[blocks_RV.clamp(min=0)], group_R1]
        scores_RVGS = (q_RGD[:, None] @ k_RVSD.mT).float() * scale
        position_RVS = blocks_RV[..., None] * page_size + offset_S
        hidden_RVS = (position_RVS > own_position) | (blocks_RV < 0)[..., None]
        scores_RVGS = scores_RVGS.masked_fill(hidden_RVS[:, :, None], -torch.inf)
        # The softmax over all tokens of all blocks, then the sum over each block's.
        weights_RGVS = scores_RVGS.transpose(1, 2).flatten(2).softmax(-1).unflatten(2, (-1, page_size))
        # What is hidden is 0, so it may be added anywhere.
        mass_RB.scatter_add_(1, blocks_RV.clamp(min=0), weights_RGVS.sum(-1).mean(1))
    return mass_WRB
