"""Documents one after the other, as the training decoder reads them. Letters: T tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from openm3.train.data import Window

NOTHING = -100  # the target of a sequence's last token: torch's cross entropy leaves it out


@dataclass(frozen=True)
class Packed:
    """Tokens of several sequences. A sequence has positions from 0 and sees nothing of the others.

    Attributes:
        token_ids_T: int64.
        lengths: of the sequences, which add up to T.
    """

    token_ids_T: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, windows: Sequence[Window], device: torch.device | None = None) -> Packed:
        """The sequences of these windows."""
        ids_T = torch.from_numpy(np.concatenate([window.ids_T for window in windows])).to(device)
        return cls(ids_T, tuple(length for window in windows for length in window.lengths))

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The sequences' parts of a tensor whose first dimension is T."""
        return x.split(self.lengths)

    @cached_property
    def positions_T(self) -> Tensor:
        """int64: the place of every token in its sequence."""
        return torch.cat([torch.arange(length) for length in self.lengths]).to(self.token_ids_T.device)

    @cached_property
    def targets_T(self) -> Tensor:
        """int64: the token after each one in its sequence, `NOTHING` behind the last."""
        targets_T = self.token_ids_T.roll(-1)
        targets_T[torch.tensor(self.lengths).cumsum(0) - 1] = NOTHING
        return targets_T


def num_targets(windows: Sequence[Window]) -> int:
    """Tokens of these windows that another one predicts."""
    return sum(length - 1 for window in windows for length in window.lengths)
