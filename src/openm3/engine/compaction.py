"""Which blocks a sequence gives up when it has filled its window. No torch here.

The keys and values of what stays were computed when all was there, so they still tell something of what has gone.
Blocks move up together: their keys are turned to the positions of the shorter sequence, see `model/shift.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from openm3.config import EngineConfig
from openm3.errors import InputError

_KEPT = 0.75  # of the window, after a compaction: so that there isn't one at each token
_NEWEST = 8  # an eighth of the window is never dropped


@dataclass(frozen=True)
class Compaction:
    """How sequences of one window are compacted.

    Attributes:
        page_size: tokens in a page.
        most: tokens that a sequence holds before it is compacted.
        kept: pages that it holds afterwards.
        newest: pages at its end that are never dropped.
    """

    page_size: int
    most: int
    kept: int
    newest: int

    @classmethod
    def of(cls, config: EngineConfig, most: int) -> Compaction:
        """For sequences that hold at most this many tokens: the window, or what the cache holds."""
        size = config.blocks.index_block_size
        newest = max(config.blocks.index_local_blocks, most // _NEWEST // size, 1)
        return cls(size, most, int(most * _KEPT) // size, newest)

    @property
    def freed(self) -> int:
        """Tokens that a compaction makes room for."""
        return self.most - self.kept * self.page_size

    def check(self, head: int, tail: int) -> None:
        """Sees that a prompt with protected tokens can be compacted at all.

        Args:
            head, tail: as in `choose`.

        Raises:
            InputError: everything would be protected.
        """
        protected = max(1, -(-head // self.page_size)) + self.newest + self._around(tail)
        if protected > self.kept:
            raise InputError(
                "prompt",
                f"nothing can be dropped: {protected * self.page_size} tokens are always kept (the beginning, the "
                f"system prompt, the question, the newest), and a full window of {self.most} is cut to "
                f"{self.kept * self.page_size}; shorten the prompt or set a larger window",
            )

    def choose(self, num_held: int, head: int, tail: tuple[int, int], score: Callable[[int], float]) -> list[int]:
        """The pages to drop, ascending: the least important ones, of equal ones the oldest.

        Args:
            num_held: tokens that the sequence holds.
            head: tokens at its beginning that are never dropped, a page at least.
            tail: positions `(start, stop)` that are never dropped, the question's.
            score: how important a page is.
        """
        num_pages, size = -(-num_held // self.page_size), self.page_size
        protected = {*range(max(1, -(-head // size))), *range(max(num_pages - self.newest, 0), num_pages)}
        start, stop = tail
        if start < stop:
            protected.update(range(start // size, (stop - 1) // size + 1))
        droppable = [page for page in range(num_pages) if page not in protected]
        droppable.sort(key=lambda page: (score(page), page))
        return sorted(droppable[: max(num_pages - self.kept, 0)])

    def _around(self, tail: int) -> int:
        """The most pages that this many tokens lie in."""
        return -(-tail // self.page_size) + 1 if tail else 0
