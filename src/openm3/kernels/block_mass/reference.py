"""The definition in fp32, one query, group and block at a time. Letters as in `op.py`."""

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
    page_size, num_groups = batch.page_size, k_cache_PRSD.shape[1]
    mass_WRB = torch.zeros(len(watched.row_W), num_groups, batch.page_table_BP.shape[1])
    rows = zip(watched.row_W.tolist(), watched.sequence_W.tolist(), watched.position_W.tolist(), strict=True)
    for w, (row, sequence, own_position) in enumerate(rows):
        for r in range(num_groups):
            blocks = list(range(own_position // page_size + 1))
            if block_ids_TRN is not None:
                blocks = [b for b in block_ids_TRN[row, r].tolist() if b >= 0]
            positions = torch.cat([torch.arange(b * page_size, (b + 1) * page_size) for b in blocks])
            positions = positions[positions <= own_position]
            page = batch.page_table_BP[sequence, positions // page_size].long()
            k_LD = k_cache_PRSD[page, r, positions % page_size].float()
            heads = slice(r * q_THD.shape[1] // num_groups, (r + 1) * q_THD.shape[1] // num_groups)
            weights_L = (q_THD[row, heads].float() @ k_LD.mT * scale).softmax(-1).mean(0)
            for b in blocks:
                mass_WRB[w, r, b] = weights_L[positions // page_size == b].sum()
    return mass_WRB
