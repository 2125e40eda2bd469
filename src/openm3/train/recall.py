"""How much of what a model would read is in the blocks that it chooses (the metrics of arXiv 2606.13392).

Letters: W query tokens, R groups, B blocks of the context, N chosen blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openm3.kernels.paged import PagedBatch
from openm3.model.watch import Watch


@dataclass(frozen=True, kw_only=True)
class LayerRecall:
    """Of one layer, means over query tokens and groups. The best blocks are as many as were chosen, and hold the most
    attention mass by the layer's own queries and keys; the mass is the mean over the heads of a group.

    Attributes:
        block_recall: the share of the best blocks that were chosen.
        mass_recall: the mass of these, of what the best blocks hold; the paper's score recall.
        mass_kept: the mass of all chosen blocks, of what the best blocks hold.
        chosen_mass: the mass of all chosen blocks, of everything.
    """

    block_recall: float
    mass_recall: float
    mass_kept: float
    chosen_mass: float


class Recall:
    """Takes down what some places read, through `Reader.logits`; several texts one after the other.

    Args:
        places: of the text, ascending; each must see more blocks than are chosen, as where all are read there is
            nothing to choose.
    """

    def __init__(self, places: Sequence[int]) -> None:
        self._places = places
        self._pairs: list[tuple[_Layers, _Layers]] = []

    def watches(self, begin: int, paged: PagedBatch) -> tuple[Watch | None, Watch | None]:
        """What tells of the places in the next tokens of the text, which begin at `begin`."""
        rows = [place - begin for place in self._places if begin <= place < begin + paged.num_tokens]
        if not rows:
            return None, None
        row_W = torch.tensor(rows, dtype=torch.int64)
        self._pairs.append((_Layers(row_W, paged), _Layers(row_W, paged, probes=True)))
        return self._pairs[-1]

    def layers(self) -> list[LayerRecall]:
        """The figures of each layer; of none where no place was read."""
        if not self._pairs:
            return []
        num_layers = len(self._pairs[0][0].masses)
        found = []
        for layer in range(num_layers):
            parts = [recall_of(chosen.masses[layer], whole.masses[layer]) for chosen, whole in self._pairs]
            means = torch.cat(parts, dim=1).mean(1).tolist()
            names = ("block_recall", "mass_recall", "mass_kept", "chosen_mass")
            found.append(LayerRecall(**dict(zip(names, means, strict=True))))
        return found


def recall_of(read_WRB: Tensor, mass_WRB: Tensor) -> Tensor:
    """fp32 `[4, W * R]`: the four figures of `LayerRecall` for each query token and group.

    Args:
        read_WRB: the share of each block in what was read; 0 for those that were not chosen.
        mass_WRB: the share of each block in what would be read of all blocks.
    """
    chosen_WRB = read_WRB > 0
    order_WRB = mass_WRB.argsort(dim=-1, descending=True, stable=True)
    rank = torch.arange(mass_WRB.shape[-1], device=mass_WRB.device).expand_as(order_WRB)
    num_chosen_WR1 = chosen_WRB.sum(-1, keepdim=True)
    best_WRB = torch.zeros_like(chosen_WRB).scatter(-1, order_WRB, rank < num_chosen_WR1)
    best_WR = (mass_WRB * best_WRB).sum(-1)
    both_WRB = best_WRB & chosen_WRB
    chosen_WR = (mass_WRB * chosen_WRB).sum(-1)
    figures = (
        both_WRB.sum(-1) / num_chosen_WR1[..., 0],
        (mass_WRB * both_WRB).sum(-1) / best_WR,
        chosen_WR / best_WR,
        chosen_WR,
    )
    return torch.stack([figure.flatten() for figure in figures])


class _Layers(Watch):
    """Keeps what each layer says instead of adding it up."""

    def __init__(self, row_W: Tensor, paged: PagedBatch, *, probes: bool = False) -> None:
        super().__init__(row_W, paged, probes=probes)
        self.masses: list[Tensor] = []

    def add(self, mass_WRB: Tensor) -> None:
        self.masses.append(mass_WRB.float().cpu())
