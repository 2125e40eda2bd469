"""Which blocks are near, and which of the chosen ones are far. Letters as in `op.py`."""

from __future__ import annotations

import torch
from torch import Tensor


def near_blocks(positions_T: Tensor, count: int, block_size: int) -> Tensor:
    """int32 `[T, 1, count]`: the near blocks of queries at these positions, as `select_blocks` lists blocks."""
    own_T11 = positions_T[:, None, None] // block_size
    ids_T1M = (own_T11 - (count - 1)).clamp(min=0) + torch.arange(count, device=positions_T.device)
    return ids_T1M.masked_fill(ids_T1M > own_T11, -1).int()


def far_blocks(block_ids_TRN: Tensor, near_ids_T1M: Tensor) -> tuple[Tensor, Tensor]:
    """int32 `[T, R, N - M]`, the far ones of chosen blocks, and bool `[T, 1]`, which queries have none.

    Those have block 0 there: kernels read at least one, and it is given no weight.
    """
    first_near_T11 = near_ids_T1M[..., :1]
    far_ids_TRN = block_ids_TRN[..., : block_ids_TRN.shape[2] - near_ids_T1M.shape[2]]  # the lowest ids come first
    far_ids_TRN = far_ids_TRN.masked_fill(far_ids_TRN >= first_near_T11, -1)
    nothing_T1 = first_near_T11[..., 0] == 0
    far_ids_TRN[..., 0].masked_fill_(nothing_T1, 0)
    return far_ids_TRN, nothing_T1
