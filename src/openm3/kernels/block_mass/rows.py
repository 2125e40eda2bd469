"""Which of a batch's query tokens are watched. Letters as in `op.py`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openm3.kernels.paged import PagedBatch


@dataclass(frozen=True)
class WatchedRows:
    """Some query tokens of a batch; all layers use one.

    Attributes:
        row_W: int64 rows of the packed query tokens.
        sequence_W, position_W: int32; the sequence that each belongs to, and where in it.

    All tensors are on the CPU.
    """

    row_W: Tensor
    sequence_W: Tensor
    position_W: Tensor

    @classmethod
    def of(cls, row_W: Tensor, batch: PagedBatch) -> WatchedRows:
        """The rows `row_W` (int64) of a batch.

        Raises:
            ValueError: a row is not in the batch.
        """
        if len(row_W) and not 0 <= int(row_W.min()) <= int(row_W.max()) < batch.num_tokens:
            raise ValueError(f"row_W: the batch has rows 0 to {batch.num_tokens - 1}, got {row_W.tolist()}")
        sequence_W = torch.searchsorted(batch.query_start_B1, row_W, right=True, out_int32=True) - 1
        return cls(row_W, sequence_W, batch.positions_T[row_W].int())
