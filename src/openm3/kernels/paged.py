"""Which query tokens belong to which sequence, and where each sequence's pages lie.

A page holds `page_size` tokens of one sequence and is the block of sparse attention: block b of a sequence is
its tokens b*S to (b+1)*S - 1, wherever the page lies in the pool. Caches are `[P, R, S, D]`: the tokens that one
group of heads reads of a page are one contiguous stretch.

Letters: T packed query tokens, B sequences, P pages, R key/value heads, S page size, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from openm3.kernels.device import DeviceBatch


@dataclass(frozen=True)
class Span:
    """One sequence of a batch.

    Attributes:
        rows: its query tokens among the packed ones; they are the last tokens of its context.
        context_len: tokens of the sequence that are in the cache once the new ones are written.
        pages: int64 ids of the pages that hold them, in order.
        first_page: the first id where the pages lie one after the other in the pool, else None.
    """

    rows: slice
    context_len: int
    pages: Tensor
    first_page: int | None

    @property
    def num_queries(self) -> int:
        return int(self.rows.stop - self.rows.start)

    @property
    def first_position(self) -> int:
        """Position of the first query token; all before it are the cached prefix."""
        return self.context_len - self.num_queries

    def gather(self, cache_PRSD: Tensor) -> Tensor:
        """This sequence's pages `[p, R, S, D]`: a view where they are contiguous, else a copy."""
        if self.first_page is not None:
            return cache_PRSD[self.first_page : self.first_page + len(self.pages)]
        return cache_PRSD.index_select(0, self.pages)


@dataclass(frozen=True)
class PagedBatch:
    """The packed query tokens of one step and the pages of their sequences.

    Attributes:
        query_start_B1: int32 `[B+1]`; queries of sequence b are rows query_start[b] to query_start[b+1].
        context_len_B: int32 `[B]`; tokens in the cache after this step's own are written.
        page_table_BP: int32 `[B, most pages of a sequence]`, padded on the right with -1.
        page_size: tokens in a page.

    All tensors are on the CPU: they steer the kernels and are not read by them in bulk. `on` copies them to a GPU.
    """

    query_start_B1: Tensor
    context_len_B: Tensor
    page_table_BP: Tensor
    page_size: int

    @classmethod
    def build(
        cls,
        query_lens: Sequence[int],
        context_lens: Sequence[int],
        pages: Sequence[Sequence[int]],
        page_size: int,
    ) -> PagedBatch:
        """Packs per-sequence lists.

        Raises:
            ValueError: lists of different lengths, a sequence without queries, more queries than context,
                or fewer pages than the context needs.
        """
        if not len(query_lens) == len(context_lens) == len(pages):
            raise ValueError(
                f"query_lens, context_lens and pages must name the same sequences, "
                f"got {len(query_lens)}, {len(context_lens)} and {len(pages)}"
            )
        for num_queries, context_len, page_ids in zip(query_lens, context_lens, pages, strict=True):
            if not 1 <= num_queries <= context_len:
                raise ValueError(f"query_lens: must be from 1 to context_lens {context_len}, got {num_queries}")
            if len(page_ids) * page_size < context_len:
                raise ValueError(f"pages: {len(page_ids)} pages of {page_size} can't hold {context_len} tokens")
        # NumPy keeps the interpreter for these few numbers. A torch operation lets go of it, and a server's event loop
        # that takes it then makes the engine wait at each of them.
        widest = max((len(page_ids) for page_ids in pages), default=0)
        table = np.full((len(pages), widest), -1, np.int32)
        for row, page_ids in zip(table, pages, strict=True):
            row[: len(page_ids)] = page_ids
        starts = np.array([0, *accumulate(query_lens)], np.int32)
        contexts = np.array(context_lens, np.int32)
        return cls(torch.from_numpy(starts), torch.from_numpy(contexts), torch.from_numpy(table), page_size)

    @classmethod
    def of_decode(cls, num_sequences: int, width: int, page_size: int) -> PagedBatch:
        """One query token for each sequence, of the longest contexts that `width` pages hold.

        What kernels are recorded with: `on(device)` stays, and its contents may be changed, see `DeviceBatch.move_to`.
        """
        contexts = [width * page_size] * num_sequences
        return cls.build([1] * num_sequences, contexts, [[0] * width] * num_sequences, page_size)

    @cached_property
    def num_tokens(self) -> int:
        """T: packed query tokens."""
        return int(self.query_start_B1[-1])

    @cached_property
    def highest_page(self) -> int:
        """The largest page id; a cache must have more pages than that."""
        return int(self.page_table_BP.max()) if self.page_table_BP.numel() else -1

    @cached_property
    def lowest_page(self) -> int:
        """The smallest page id that a context reads; -1 where a row of the table ends before its context."""
        needed_B1 = -(-self.context_len_B[:, None] // self.page_size)
        width = self.page_table_BP.shape[1]
        if int(needed_B1.max()) > width:
            return -1
        return int(self.page_table_BP.masked_fill(torch.arange(width) >= needed_B1, self.highest_page).min())

    @cached_property
    def fitting(self) -> set[torch.Size]:
        """Shapes of caches that were found to hold every page, see `kernels/checks.py`."""
        return set()

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """One span a sequence, with only the pages that its context fills."""
        starts: list[int] = self.query_start_B1.tolist()
        spans = []
        for b, context_len in enumerate(self.context_len_B.tolist()):
            num_pages = -(-context_len // self.page_size)
            pages = self.page_table_BP[b, :num_pages].long()
            run = torch.arange(num_pages) + pages[0]
            first_page = int(pages[0]) if torch.equal(pages, run) else None
            spans.append(Span(slice(starts[b], starts[b + 1]), context_len, pages, first_page))
        return tuple(spans)

    @cached_property
    def positions_T(self) -> Tensor:
        """int64 position of every query token in its sequence."""
        return torch.cat([torch.arange(s.first_position, s.context_len) for s in self.spans])

    @cached_property
    def filled_pages(self) -> Tensor:
        """int64 ids of the pages that this step's tokens fill to the end."""
        size = self.page_size
        return torch.cat([s.pages[s.first_position // size : s.context_len // size] for s in self.spans])

    @cached_property
    def slots(self) -> tuple[Tensor, Tensor]:
        """int64 `(page_T, offset_T)`: where every query token's own key lies."""
        pages = [s.pages[torch.arange(s.first_position, s.context_len) // self.page_size] for s in self.spans]
        return torch.cat(pages), self.positions_T % self.page_size

    @cached_property
    def _copies(self) -> dict[torch.device, DeviceBatch]:
        return {}

    def positions_on(self, device: torch.device) -> Tensor:
        """The position of every query token, where the network is."""
        return self.on(device).position if device.type != "cpu" or device in self._copies else self.positions_T

    def on(self, device: torch.device) -> DeviceBatch:
        """This batch as the kernels of a GPU read it, copied there once."""
        if device not in self._copies:
            self._copies[device] = DeviceBatch.copy(self, device)
        return self._copies[device]
