"""The pool of cache pages. No torch here: a page is a number."""

from __future__ import annotations

import heapq


class PagePool:
    """Hands out page ids, lowest first, so that the pages of a request tend to lie one after the other.

    Args:
        num_pages: pages in the pool.
        page_size: tokens in a page.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages, self.page_size = num_pages, page_size
        self._free = list(range(num_pages))  # a heap
        self._used: set[int] = set()

    @property
    def num_free(self) -> int:
        return len(self._free)

    def pages_for(self, num_tokens: int) -> int:
        """Pages that hold this many tokens."""
        return -(-num_tokens // self.page_size)

    def allocate(self, count: int) -> list[int]:
        """Takes pages; the caller has made sure that they are there."""
        assert count <= len(self._free), f"{count} pages asked, {len(self._free)} free"
        pages = [heapq.heappop(self._free) for _ in range(count)]
        self._used.update(pages)
        return pages

    def free(self, pages: list[int]) -> None:
        """Gives pages back and empties the list, so that nobody goes on using them."""
        for page in pages:
            self._used.remove(page)
            heapq.heappush(self._free, page)
        pages.clear()

    def check(self, owned: list[list[int]]) -> None:
        """Asserts that every page is free or has exactly one owner; `owned` are the lists of all owners."""
        held = [page for pages in owned for page in pages]
        assert len(held) == len(set(held)), "a page has two owners"
        assert set(held) == self._used, "the pool and the owners disagree"
        assert sorted([*self._free, *held]) == list(range(self.num_pages)), "a page is lost or doubled"
