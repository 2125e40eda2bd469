"""`block_mass` of clamped attention. Letters as there and in `op.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.kernels.block_mass import WatchedRows, block_mass
from openm3.kernels.clamped_attention.blocks import far_blocks
from openm3.kernels.paged import PagedBatch


def clamped_mass(
    near: tuple[Tensor, Tensor],
    far: tuple[Tensor, Tensor],
    block_ids_TRN: Tensor,
    near_ids_T1M: Tensor,
    far_share_TH: Tensor,
    watched: WatchedRows,
    batch: PagedBatch,
    *,
    backend: str = "torch",
) -> Tensor:
    """The share of each block in the softmax of clamped attention, mean over the heads of a group.

    Each head shares its softmax out between near and far in its own way, so heads are taken one by one.

    Args:
        near, far: the queries `[T, H, D]` and keys `[P, R, S, D]` of either side.
        block_ids_TRN, near_ids_T1M, batch, backend: as in `clamped_attention`.
        far_share_TH: what that returns.
        watched: the query tokens.

    Returns:
        fp32 `[W, R, B]`, as `block_mass` does.
    """
    num_groups = near[1].shape[1]
    near_ids_TRM = near_ids_T1M.expand(-1, num_groups, -1).contiguous()
    far_ids_TRN, _ = far_blocks(block_ids_TRN, near_ids_T1M)
    sides = ((near, near_ids_TRM, 1 - far_share_TH), (far, far_ids_TRN, far_share_TH))
    of_heads: list[Tensor] = []
    for (q_THD, k_PRSD), ids_TRN, share_TH in sides:
        q_TRGD, share_TRG = (x.unflatten(1, (num_groups, -1)) for x in (q_THD, share_TH))
        for head in range(q_TRGD.shape[2]):
            mass_WRB = block_mass(q_TRGD[:, :, head], k_PRSD, watched, batch, block_ids_TRN=ids_TRN, backend=backend)
            of_heads.append(mass_WRB * share_TRG[watched.row_W.to(share_TH.device), :, head, None])
    return torch.stack(of_heads).sum(0) / (len(of_heads) // 2)
