"""`PagePool` under random operations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openm3.engine.pages import PagePool


@given(st.integers(1, 20), st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=60))
def test_random_operations_keep_the_invariant(num_pages: int, operations: list[tuple[bool, int]]) -> None:
    pool = PagePool(num_pages, page_size=16)
    owned: list[list[int]] = []
    for takes, number in operations:
        if takes and number <= pool.num_free:
            owned.append(pool.allocate(number))
            assert len(owned[-1]) == number
        elif owned:
            pages = owned.pop(number % len(owned))
            pool.free(pages)
            assert not pages
        pool.check(owned)
        assert pool.num_free == num_pages - sum(map(len, owned))


def test_lowest_pages_first() -> None:
    pool = PagePool(6, page_size=16)
    first, second = pool.allocate(2), pool.allocate(3)
    assert (first, second) == ([0, 1], [2, 3, 4])
    pool.free(first)
    assert pool.allocate(3) == [0, 1, 5]


def test_pages_for() -> None:
    pool = PagePool(1, page_size=16)
    assert [pool.pages_for(n) for n in (0, 1, 16, 17)] == [0, 1, 1, 2]


def test_the_check_sees_a_page_with_two_owners() -> None:
    pool = PagePool(4, page_size=16)
    pages = pool.allocate(1)
    with pytest.raises(AssertionError, match="two owners"):
        pool.check([pages, pages])
    with pytest.raises(AssertionError, match="disagree"):
        pool.check([])
