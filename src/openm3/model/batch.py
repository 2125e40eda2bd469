"""What one forward pass reads.

Letters: T packed tokens, L rows whose logits are wanted, M rows that are seen, C hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from openm3.kernels.paged import PagedBatch
from openm3.model.pooling import Pooling
from openm3.model.watch import Watch


@dataclass(frozen=True)
class Batch:
    """Tokens of one step, of all sequences one after the other.

    Attributes:
        token_ids_T: int64.
        paged: sequences, positions and pages.
        logit_rows_L: int64 rows of the tokens whose next-token logits are wanted.
        seen_rows_M: int64 rows of the tokens that stand for images and videos; None where there are none.
        seen_MC: fp32 embeddings of these rows, in the place of those of their token ids.
        watch: told by every layer what its rows read; None where nobody asks.
        probe: the same, of what its rows would read of all blocks.
        pooling: told what the states of its rows are.
        topk_B: int32, the number of blocks that each sequence's queries read; None: what the layers were made for.
    """

    token_ids_T: Tensor
    paged: PagedBatch
    logit_rows_L: Tensor
    seen_rows_M: Tensor | None = None
    seen_MC: Tensor | None = None
    watch: Watch | None = None
    probe: Watch | None = None
    pooling: Pooling | None = None
    topk_B: Tensor | None = None

    @property
    def watches(self) -> tuple[Watch, ...]:
        """Those that are there."""
        return tuple(watch for watch in (self.watch, self.probe) if watch is not None)

    def to(self, device: torch.device) -> Batch:
        """The tokens and rows on a device; the kernels take `paged` there themselves."""
        seen = [None if x is None else x.to(device) for x in (self.seen_rows_M, self.seen_MC)]
        return replace(
            self,
            token_ids_T=self.token_ids_T.to(device),
            logit_rows_L=self.logit_rows_L.to(device),
            seen_rows_M=seen[0],
            seen_MC=seen[1],
        )
