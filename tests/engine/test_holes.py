"""`Holes` against a list from which the same ranges are deleted."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from openm3.engine.holes import Holes

cuts = st.lists(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), min_size=1, max_size=4), max_size=5)


@given(cuts)
def test_what_is_left_is_what_a_list_has_left(rounds: list[list[tuple[int, int]]]) -> None:
    holes, left = Holes(), list(range(60))
    for wanted in rounds:
        ranges, end = [], 0
        for start, length in sorted(wanted):
            if end <= start and start + length <= len(left):
                ranges.append((start, start + length))
                end = start + length
        before = list(left)
        for start, stop in reversed(ranges):
            del left[start:stop]
        gone = holes.cut(ranges)
        assert [place for start, stop in gone for place in range(start, stop)] == sorted(set(before) - set(left))
        assert sorted(set(range(60)) - set(left)) == [place for span in holes.spans for place in range(*span)]
        assert all(a[1] < b[0] for a, b in pairwise(holes.spans)), "apart"
        assert holes.num_lost == 60 - len(left)
        assert [holes.place(position) for position in range(len(left))] == left
        for place in range(61):
            assert holes.lost_before(place) == place - sum(kept < place for kept in left)
        for start in range(0, len(left), 7):
            pieces = holes.pieces(start, min(start + 11, len(left)))
            assert [place for piece in pieces for place in range(piece.start, piece.stop)] == left[start : start + 11]
