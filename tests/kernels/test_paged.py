"""`PagedBatch`: packing, and what it refuses."""

from __future__ import annotations

import pytest

from openm3.kernels.paged import PagedBatch


def test_positions_and_slots() -> None:
    batch = PagedBatch.build([2, 1], [5, 3], [[7, 2], [4]], page_size=4)
    assert batch.num_tokens == 3
    assert batch.positions_T.tolist() == [3, 4, 2]
    page_T, offset_T = batch.slots
    assert page_T.tolist() == [7, 2, 4]
    assert offset_T.tolist() == [3, 0, 2]
    assert batch.highest_page == 7
    assert [span.first_page for span in batch.spans] == [None, 4]


def test_pages_in_order_are_a_view() -> None:
    [span] = PagedBatch.build([1], [12], [[3, 4, 5]], page_size=4).spans
    assert span.first_page == 3


@pytest.mark.parametrize(
    ("lens", "message"),
    [
        (([1], [1, 2], [[0]]), "must name the same sequences, got 1, 2 and 1"),
        (([0], [4], [[0]]), "query_lens: must be from 1 to context_lens 4, got 0"),
        (([5], [4], [[0]]), "query_lens: must be from 1 to context_lens 4, got 5"),
        (([1], [9], [[0, 1]]), "pages: 2 pages of 4 can't hold 9 tokens"),
    ],
)
def test_refuses(lens: tuple[list[int], list[int], list[list[int]]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PagedBatch.build(*lens, page_size=4)
