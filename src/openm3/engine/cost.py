"""What a step costs: a model of its time, learnt from the steps before. No torch here.

A step reads the weights once and multiplies them with every row, reads the context of every sequence and multiplies it
with every row of that sequence. So its time is `w · (rows, pairs, contexts, 1)` with four weights, none negative, for
any mix of prompts, answers and drafts. They are fitted by least squares of the relative error. What the head costs for
a row of an answer counts as part of a row: the first answers could not tell it from the cost of a step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

_MEMORY = 0.9  # what a step still counts after another one of its size: about 10 are remembered
_LATE = 2  # a step that takes longer than this many times what was expected was disturbed, and counts as if it took so
_SWEEPS = 6
_STALE = 8  # steps after which the weights are fitted again even if nobody asked, to tell which steps were disturbed
_SIZE = 4  # of `_features`
_TINY = 1e-30


@dataclass(frozen=True)
class Work:
    """What is computed in a step.

    Attributes:
        rows: tokens.
        pairs: tokens that each of them sees, summed.
        contexts: tokens in the contexts of the sequences, summed.
    """

    rows: int = 0
    pairs: int = 0
    contexts: int = 0

    @classmethod
    def of(cls, start: int, stop: int) -> Work:
        """Tokens `start` to `stop - 1` of a sequence."""
        rows = stop - start
        return cls(rows, rows * (start + stop + 1) // 2, stop)

    def __add__(self, other: Work) -> Work:
        return Work(self.rows + other.rows, self.pairs + other.pairs, self.contexts + other.contexts)


@dataclass
class _Fit:
    """Decayed sums over the steps of one size: the normal equations of the weights."""

    products: list[list[float]] = field(default_factory=lambda: [[0.0] * _SIZE for _ in range(_SIZE)])
    targets: list[float] = field(default_factory=lambda: [0.0] * _SIZE)

    def add(self, x: Iterable[float]) -> None:
        """Takes a step's work, divided by its time."""
        features = tuple(x)
        for i, one in enumerate(features):
            self.targets[i] = _MEMORY * self.targets[i] + one
            self.products[i] = [
                _MEMORY * old + one * other for old, other in zip(self.products[i], features, strict=True)
            ]


class StepCost:
    """Learns from steps how long others will take.

    Steps of each size (powers of two of their rows) have a memory of their own, so a long answer doesn't make it forget
    what reading costs. What the steps so far leave open is held for the cost of rows first: a prompt is then read in
    pieces that are rather too small.
    """

    def __init__(self) -> None:
        self._fits: dict[int, _Fit] = {}
        self._weights = [0.0] * _SIZE
        self._num_unfitted = 0  # steps that the weights don't know yet

    @property
    def knows(self) -> bool:
        """Whether any step was seen."""
        return bool(self._fits)

    def seconds(self, work: Work) -> float:
        """The time that a step is expected to take; 0 as long as none was seen."""
        if self._num_unfitted:
            self._fit()
        return self._expected(work)

    def learn(self, work: Work, seconds: float) -> None:
        """A step was measured."""
        size = work.rows.bit_length()
        if size not in self._fits:
            self._fits[size], self._num_unfitted = _Fit(), _STALE
        else:
            if self._num_unfitted >= _STALE:
                self._fit()
            seconds = min(seconds, _LATE * self._expected(work))
        scale = 1 / max(seconds, 1e-9)
        self._fits[size].add(scale * x for x in _features(work))
        self._num_unfitted += 1

    def _expected(self, work: Work) -> float:
        return sum(weight * x for weight, x in zip(self._weights, _features(work), strict=True))

    def _fit(self) -> None:
        """Minimises by one weight after the other, from the last ones on."""
        fits = self._fits.values()
        products = [[sum(fit.products[i][j] for fit in fits) for j in range(_SIZE)] for i in range(_SIZE)]
        targets = [sum(fit.targets[i] for fit in fits) for i in range(_SIZE)]
        weights = self._weights
        for _ in range(_SWEEPS):
            for i in range(_SIZE):
                others = sum(products[i][j] * weights[j] for j in range(_SIZE) if j != i)
                weights[i] = max(0.0, (targets[i] - others) / (products[i][i] + _TINY))
        self._num_unfitted = 0


def _features(work: Work) -> tuple[int, ...]:
    return (work.rows, work.pairs, work.contexts, 1)
