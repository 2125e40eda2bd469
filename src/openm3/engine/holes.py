"""What was dropped of a sequence, and where the rest of it stood before. No torch here."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable


class Holes:
    """Spans of tokens that a sequence has lost. A place is one of the whole sequence, a position one of what is left.

    Attributes:
        spans: `(start, stop)` places, ascending, and something is left between any two.
    """

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []
        self._befores = [0]  # tokens lost before each piece that is left, the first one included
        self._starts = [0]  # the position at which each piece begins

    def __bool__(self) -> bool:
        return bool(self.spans)

    @property
    def num_lost(self) -> int:
        """Tokens that are gone."""
        return self._befores[-1]

    def lost_before(self, place: int) -> int:
        """How many of the tokens before this place are gone."""
        return sum(min(stop, place) - start for start, stop in self.spans if start < place)

    def place(self, position: int) -> int:
        """Where the token that is now at this position stood."""
        return position + self._befores[bisect_right(self._starts, position) - 1]

    def pieces(self, start: int, stop: int) -> Iterable[slice]:
        """The places of positions start to stop - 1, as slices without a hole in them."""
        while start < stop:
            piece = bisect_right(self._starts, start) - 1
            end = min(stop, self._starts[piece + 1]) if piece + 1 < len(self._starts) else stop
            yield slice(start + self._befores[piece], end + self._befores[piece])
            start = end

    def cut(self, ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Drops ranges of positions, ascending and apart; returns the places that went, joined where they touch."""
        gone = _joined((piece.start, piece.stop) for start, stop in ranges for piece in self.pieces(start, stop))
        self.spans = _joined(sorted([*self.spans, *gone]))
        self._befores, self._starts = [0], [0]
        for start, stop in self.spans:
            position = start - self._befores[-1]
            before = self._befores[-1] + stop - start
            if position == self._starts[-1]:  # nothing is left before this hole
                self._befores[-1] = before
            else:
                self._starts.append(position)
                self._befores.append(before)
        return gone


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for start, stop in spans:
        if out and out[-1][1] == start:
            out[-1] = (out[-1][0], stop)
        else:
            out.append((start, stop))
    return out
