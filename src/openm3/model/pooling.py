"""Sums the states of some tokens of a forward pass: what a text is as one vector.

Letters: T packed tokens, S spans of rows, C size of a state.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Pooling:
    """Is told the states behind the last norm by the decoder. A batch without one costs nothing.

    Args:
        spans: rows `start` to `stop - 1` of the batch, of each sequence that is asked for; at least one.
    """

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        self._lengths = [stop - start for start, stop in spans]
        self.row_T = torch.cat([torch.arange(start, stop) for start, stop in spans])
        self._sum_SC: Tensor | None = None

    def take(self, states_TC: Tensor) -> None:
        """The states of the rows `row_T`, fp32."""
        self._sum_SC = torch.stack([part.sum(0) for part in states_TC.split(self._lengths)])

    def sums_SC(self) -> Tensor:
        """fp32, on the CPU: the sum of each span's states."""
        assert self._sum_SC is not None, "no pass was made"
        return self._sum_SC.cpu()
