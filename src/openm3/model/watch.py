"""Observes which blocks of the context some query tokens read, over all layers of a forward pass.

Letters: W watched query tokens, R groups, B blocks of the longest sequence.
"""

from __future__ import annotations

from torch import Tensor

from openm3.kernels.block_mass import WatchedRows
from openm3.kernels.paged import PagedBatch


class Watch:
    """Adds up what the attention layers of one forward pass say. A batch without one costs nothing.

    Args:
        row_W: int64, the batch's rows to watch; at least one.
        paged: the batch.
        probes: ask what the rows would read of all visible blocks, whatever they choose.

    Attributes:
        rows: these rows, as the kernels take them.
        probes: as given.
    """

    def __init__(self, row_W: Tensor, paged: PagedBatch, *, probes: bool = False) -> None:
        self.rows, self.probes = WatchedRows.of(row_W, paged), probes
        self._sum_WB: Tensor | None = None
        self._num_layers = 0

    def add(self, mass_WRB: Tensor) -> None:
        """A layer's shares of the softmax mass, as `block_mass` returns them; of a probe, what the best blocks hold."""
        if self.probes:
            mass_WRB = mass_WRB.sort(-1, descending=True).values.cumsum(-1)
        mass_WB = mass_WRB.mean(1)
        self._sum_WB = mass_WB if self._sum_WB is None else self._sum_WB.add_(mass_WB)
        self._num_layers += 1

    def mass_WB(self) -> Tensor:
        """fp32, on the CPU: the mean over layers and groups.

        A row has the share of each block and sums to 1; that of a probe has the share that the best 1, 2, ... blocks
        of each layer and group hold.
        """
        assert self._sum_WB is not None, "no layer has said what it read"
        return (self._sum_WB / self._num_layers).cpu()
