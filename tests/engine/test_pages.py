"""`PagePool` under random operations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openm3.engine.pages import PagePool


@given(st.integers(1, 20), st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=60))
def test_random_operations_keep_the_invariant(num_pages: int, operations: list[tuple[int, int]]) -> None:
    """Users take pages, share the beginnings of others', say what they hold, and give them back."""
    pool = PagePool(num_pages, page_size=1)
    owned: list[list[int]] = []
    for kind, number in operations:
        if kind == 0 and number <= pool.num_free:
            owned.append(pool.allocate(number))
            assert len(owned[-1]) == number
        elif kind == 1 and owned:
            pages = owned.pop(number % len(owned))
            pool.free(pages)
            assert not pages
        elif kind == 2 and owned:
            parent = b""
            for token, page in enumerate(owned[number % len(owned)]):
                parent = pool.remember(page, parent, [token]) or parent
        elif kind == 3:
            owned.append(pool.share(pool.match(range(number)).pages))
        elif kind == 4:
            for page in pool.match(range(number)).pages:
                pool.weigh(page, number / 3)
        pool.check(owned)
        assert pool.num_free == num_pages - len({page for pages in owned for page in pages})


def known(pool: PagePool, tokens: list[int]) -> list[int]:
    """Idle pages that hold these tokens, one each."""
    pages, parent = pool.allocate(len(tokens)), b""
    for page, token in zip(pages, tokens, strict=True):
        parent = pool.remember(page, parent, [token]) or parent
    there = list(pages)
    pool.free(pages)
    return there


def test_the_least_important_goes_first_and_only_from_an_end() -> None:
    pool = PagePool(6, page_size=1)
    first, second = known(pool, [1, 2, 3]), known(pool, [4, 5, 6])
    pool.weigh(first[2], 1.0)
    pool.weigh(second[0], 5.0)  # kept by what is behind it, not by this
    pool.weigh(first[0], 0.1)
    taken = pool.allocate(2)
    assert pool.match([4, 5, 6, 0]).pages == (second[0],), "the ends of the second, which nobody had read"
    taken += pool.allocate(1)
    assert pool.match([1, 2, 3, 0]).pages == tuple(first[:2]), (
        "now its beginning is more important than the first's end"
    )
    taken += pool.allocate(1)
    assert pool.match([1, 2, 3, 0]).pages == (first[0],)
    pool.check([taken])
    pool.free(taken)
    pool.check([])


def test_importance_fades() -> None:
    """What was read a lot long ago goes before what was read a little lately."""
    pool = PagePool(4, page_size=1)
    [old] = known(pool, [1])
    pool.weigh(old, 8.0)
    for _ in range(16):
        taken = pool.allocate(1)
        pool.free(taken)
    [new] = known(pool, [2])
    pool.weigh(new, 1.0)
    assert pool.match([1, 0]).pages == (old,)
    pool.allocate(3)
    assert pool.match([1, 0]).pages == ()
    assert pool.match([2, 0]).pages == (new,)


def test_pages_computed_twice_do_not_stand_in_the_way() -> None:
    """Two requests read the same at once: the second one's pages are known behind the first one's, and in use."""
    pool = PagePool(4, page_size=1)
    first, second = pool.allocate(1), pool.allocate(2)
    digest = pool.remember(first[0], b"", [1])
    assert digest == pool.remember(second[0], b"", [1])
    pool.remember(second[1], digest or b"", [2])
    pool.free(first)
    pool.check([second])
    taken = pool.allocate(2)
    pool.check([second, taken])


def test_the_page_idle_longest_goes_first_and_of_a_request_the_last() -> None:
    pool = PagePool(4, page_size=1)
    for tokens in ([1, 2], [3, 4]):
        pages, parent = pool.allocate(2), b""
        for page, token in zip(pages, tokens, strict=True):
            parent = pool.remember(page, parent, [token]) or parent
        pool.free(pages)
    assert pool.num_free == 4
    taken = pool.allocate(1)
    assert pool.match([1, 2, 0]).pages == (0,), "the second page of the first is gone"
    assert pool.match([3, 4, 0]).pages == (2, 3)
    pool.free(taken)


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
    with pytest.raises(AssertionError, match="twice"):
        pool.check([pages * 2])
    with pytest.raises(AssertionError, match="disagree"):
        pool.check([])
