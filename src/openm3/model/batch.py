"""What one forward pass reads. Letters: T packed tokens, L rows whose logits are wanted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openm3.kernels.paged import PagedBatch


@dataclass(frozen=True)
class Batch:
    """Tokens of one step, of all sequences one after the other.

    Attributes:
        token_ids_T: int64.
        paged: sequences, positions and pages.
        logit_rows_L: int64 rows of the tokens whose next-token logits are wanted.
    """

    token_ids_T: Tensor
    paged: PagedBatch
    logit_rows_L: Tensor

    def to(self, device: torch.device) -> Batch:
        """The tokens and rows on a device; the kernels take `paged` there themselves."""
        return Batch(self.token_ids_T.to(device), self.paged, self.logit_rows_L.to(device))
