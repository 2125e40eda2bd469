"""How important the blocks of a sequence are, by what its tokens read. No torch here.

With m(t, b) the share of the softmax mass that block b got in the t-th reading, the latest of them T, and
w = 2 ** (-1 / half-life), the score of a block is its decayed mean mass

    score(b) = sum over t of w ** (T - t) * m(t, b)  /  sum over t of w ** (T - t)

A block that a reading did not select has no mass in it, so the score holds how often it was read and how much.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Masses = NDArray[np.float32]

HALF_LIFE = 32  # readings


class Importance:
    """The blocks of one sequence, by their places in it.

    Args:
        half_life: readings after which one counts half.

    Raises:
        ValueError: a half-life that is not positive.
    """

    def __init__(self, half_life: float = HALF_LIFE) -> None:
        if not half_life > 0:
            raise ValueError(f"half_life: must be more than 0, got {half_life}")
        self._keep = 2 ** (-1 / half_life)
        self._mass_B: NDArray[np.float64] = np.zeros(0)
        self._total = 0.0

    def update(self, mass_B: Masses) -> None:
        """Takes a reading: the share of the mass of each block, of as many blocks as there are by now."""
        grown = max(len(mass_B) - len(self._mass_B), 0)
        self._mass_B = np.pad(self._mass_B * self._keep, (0, grown))
        self._mass_B[: len(mass_B)] += mass_B
        self._total = self._total * self._keep + 1

    def score(self, block: int) -> float:
        """The decayed mean mass of a block; 0 for one that nothing is known of."""
        return float(self._mass_B[block] / self._total) if block < len(self._mass_B) else 0.0

    def scores(self) -> NDArray[np.float64]:
        """The scores of all blocks; they sum to 1 once there was a reading."""
        return self._mass_B / (self._total or 1)

    def optimal_k(self, target: float = 0.95) -> int:
        """The smallest number of blocks that hold this share of the observed mass; 0 before the first reading."""
        return smallest_k(np.cumsum(np.sort(self.scores())[::-1]), target)


def smallest_k(held_B: NDArray[np.floating], target: float) -> int:
    """The smallest k whose best blocks hold a share of the mass.

    Args:
        held_B: the share that the best 1, 2, ... blocks hold; ascending to 1.
        target: the share, more than 0 and at most 1.

    Raises:
        ValueError: a target out of range.
    """
    if not 0 < target <= 1:
        raise ValueError(f"target: must be more than 0 and at most 1, got {target}")
    # Sums of fp32 end a little off 1.
    return min(int(np.searchsorted(held_B, target - 1e-6)) + 1, len(held_B))
