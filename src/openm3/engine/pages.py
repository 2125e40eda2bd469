"""The pool of cache pages. No torch here: a page is a number."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Sequence

from openm3.engine.prefix import Match, PrefixIndex


class PagePool:
    """Hands out page ids, lowest first, so that the pages of a request tend to lie one after the other.

    A page may have several users. One that nobody uses any more, and whose tokens are known, is idle: it is found
    again by a prompt that begins with them, until its memory is needed. Then leaves go first, the pages behind which
    nothing is known, so that what is left is always the beginning of something; of these the least important, and of
    equally important ones the longest idle. Importance is what `weigh` was told, halved each time that as many pages
    as the pool has were handed out.

    Args:
        num_pages: pages in the pool.
        page_size: tokens in a page.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages, self.page_size = num_pages, page_size
        self._free = list(range(num_pages))  # a heap
        self._users: Counter[int] = Counter()
        self._idle: dict[int, int] = {}  # since when, by a count; the longest idle first
        self._leaves: list[tuple[float, int, int]] = []  # a heap of weight, since when, page; may hold what has changed
        # Base-2 logarithms of what the masses would be now if they had grown instead of halving: their order stays.
        self._weights: dict[int, float] = {}
        self._num_handed = 0
        self._count = 0
        self._prefixes = PrefixIndex(page_size)

    @property
    def num_free(self) -> int:
        """Pages that can be had, idle ones among them."""
        return len(self._free) + len(self._idle)

    def pages_for(self, num_tokens: int) -> int:
        """Pages that hold this many tokens."""
        return -(-num_tokens // self.page_size)

    def allocate(self, count: int) -> list[int]:
        """Takes pages; the caller has made sure that they are there."""
        assert count <= self.num_free, f"{count} pages asked, {self.num_free} free"
        pages = [heapq.heappop(self._free) if self._free else self._evict() for _ in range(count)]
        self._users.update(pages)
        self._num_handed += count
        return pages

    def match(self, tokens: Sequence[int], salt: bytes = b"") -> Match:
        """See `PrefixIndex.match`."""
        return self._prefixes.match(tokens, salt)

    def share(self, pages: Sequence[int]) -> list[int]:
        """Takes pages that a match has found."""
        for page in pages:
            self._idle.pop(page, None)
        self._users.update(pages)
        return list(pages)

    def remember(self, page: int, parent: bytes, tokens: Sequence[int]) -> bytes | None:
        """Says what a page holds, once nobody writes to it any more; see `PrefixIndex.add`."""
        return self._prefixes.add(page, parent, tokens)

    def weigh(self, page: int, mass: float) -> None:
        """Adds to the importance of a page that holds something: how much of it was read."""
        if mass <= 0:
            return
        new = math.log2(mass) + self._num_handed / self.num_pages
        old = self._weights.get(page, -math.inf)
        self._weights[page] = max(old, new) + math.log2(1 + 2 ** -abs(old - new))
        self._lay(page)

    def is_shared(self, page: int) -> bool:
        """Whether a page has several users."""
        return self._users[page] > 1

    def may_write(self, page: int) -> bool:
        """Whether what a used page holds may be changed: nobody else uses it, and no prompt is to find it."""
        return not self.is_shared(page) and page not in self._prefixes

    def free(self, pages: list[int]) -> None:
        """Gives pages back and empties the list, so that nobody goes on using them."""
        for page in reversed(pages):
            assert self._users[page] > 0, f"page {page} is nobody's"
            self._users[page] -= 1
            if self._users[page]:
                continue
            del self._users[page]
            if page in self._prefixes:
                self._count += 1
                self._idle[page] = self._count
                self._lay(page)
            else:
                self._weights.pop(page, None)
                heapq.heappush(self._free, page)
        pages.clear()

    def check(self, owned: list[list[int]]) -> None:
        """Asserts that every page is free, idle or used, and by whom; `owned` are the lists of all users."""
        for pages in owned:
            assert len(pages) == len(set(pages)), "a request holds a page twice"
        assert Counter(page for pages in owned for page in pages) == self._users, "the pool and the owners disagree"
        everywhere = [*self._free, *self._idle, *self._users]
        assert sorted(everywhere) == list(range(self.num_pages)), "a page is lost or doubled"
        assert all(page in self._prefixes for page in self._idle), "an idle page holds nothing known"
        leaves = {self._entry(page) for page in self._idle if self._prefixes.is_leaf(page)}
        assert leaves <= set(self._leaves), "an idle leaf would not be found"
        assert not self._weights.keys() & set(self._free), "a free page is important"

    def _evict(self) -> int:
        page = self._next_leaf()
        if page is None:  # what is known behind the idle pages is in use, computed twice by two requests at a time
            page = next(iter(self._idle))
        parent = self._prefixes.parent(page)
        del self._idle[page]
        self._weights.pop(page, None)
        self._prefixes.forget(page)
        if parent is not None:
            self._lay(parent)
        return page

    def _next_leaf(self) -> int | None:
        while self._leaves:
            entry = heapq.heappop(self._leaves)
            page = entry[-1]
            if page in self._idle and entry == self._entry(page) and self._prefixes.is_leaf(page):
                return page
        return None

    def _lay(self, page: int) -> None:
        """Has a page be found if it is an idle leaf; called whenever it may have become one, or its entry changed."""
        if page in self._idle and self._prefixes.is_leaf(page):
            heapq.heappush(self._leaves, self._entry(page))
            if len(self._leaves) > 4 * self.num_pages:  # most of it has changed since
                self._leaves = [self._entry(idle) for idle in self._idle if self._prefixes.is_leaf(idle)]
                heapq.heapify(self._leaves)

    def _entry(self, page: int) -> tuple[float, int, int]:
        return self._weights.get(page, -math.inf), self._idle[page], page
