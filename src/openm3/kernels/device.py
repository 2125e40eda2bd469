"""A batch as the GPU kernels read it: copied once a step, whatever the number of layers. Letters as in `paged.py`.

Also the turned-round selection: which queries read a block.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from openm3.kernels.paged import PagedBatch

# Sequences with at most so many queries are decoded: their contexts are split over the processor. The rule sees one
# sequence alone, so that a sequence gives the same bits whatever runs beside it.
FEW_QUERIES = 8


@dataclass(frozen=True)
class Tiles:
    """Stretches of queries, each of one sequence.

    Attributes:
        sequence, row: int32 `[tiles]`, the sequence of each and its first row, on the device.
        rows: the first rows again, on the host.
    """

    sequence: Tensor
    row: Tensor
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Readers:
    """For every column (a block of a sequence) and group the entries of the selection that chose it.

    Attributes:
        start: int64 `[columns * R + 1]`: entries of column c and group r are start[c * R + r] to the next.
        entry: int64 `[T * R * N]`: (t * R + r) * N + n, ascending for each block: sums over them are repeatable.
    """

    start: Tensor
    entry: Tensor


@dataclass
class DeviceBatch:
    """What a `PagedBatch` says, on a device.

    Attributes:
        query_start, context_len, page_table: as in `PagedBatch`, int32.
        sequence, position: int32 `[T]` of every query token.
        slots: int64 `(page, offset)`, where every query token's own key lies.
        column_start: int32 `[B]`: a column is a block of a sequence; the first one of each sequence.
        column_sequence, column_block: int32 `[columns]`.
    """

    query_start: Tensor
    context_len: Tensor
    page_table: Tensor
    sequence: Tensor
    position: Tensor
    slots: tuple[Tensor, Tensor]
    column_start: Tensor
    column_sequence: Tensor
    column_block: Tensor
    batch: PagedBatch
    _tiles: dict[tuple[int, tuple[int, ...]], Tiles] = field(default_factory=dict)

    @classmethod
    def copy(cls, batch: PagedBatch, device: torch.device) -> DeviceBatch:
        counts = [span.num_queries for span in batch.spans]
        blocks = torch.tensor([len(span.pages) for span in batch.spans])
        start = blocks.cumsum(0) - blocks
        sequence = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        column_sequence = torch.arange(len(counts)).repeat_interleave(blocks)
        column_block = torch.arange(len(column_sequence)) - start[column_sequence]

        def int32(tensor: Tensor) -> Tensor:
            return tensor.int().to(device)

        return cls(
            int32(batch.query_start_B1),
            int32(batch.context_len_B),
            int32(batch.page_table_BP),
            int32(sequence),
            int32(batch.positions_T),
            (batch.slots[0].to(device), batch.slots[1].to(device)),
            int32(start),
            int32(column_sequence),
            int32(column_block),
            batch,
        )

    def move_to(self, page_table: Tensor, context_len: Tensor) -> None:
        """Reads pages and lengths there from now on, whatever they come to be: of a batch with a query a sequence."""
        self.page_table, self.context_len = page_table, context_len

    def follow_lengths(self) -> None:
        """Finds, on the device, the queries' positions and slots from what `page_table` and `context_len` hold."""
        size = self.batch.page_size
        self.position.copy_(self.context_len - 1)
        block = (self.position // size).long()
        self.slots[0].copy_(self.page_table.gather(1, block[:, None])[:, 0])
        self.slots[1].copy_(self.position % size)

    def few_and_many(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The sequences to decode, and the others."""
        few = tuple(b for b, span in enumerate(self.batch.spans) if span.num_queries <= FEW_QUERIES)
        many = tuple(b for b, span in enumerate(self.batch.spans) if span.num_queries > FEW_QUERIES)
        return few, many

    def tiles(self, size: int, sequences: tuple[int, ...]) -> Tiles:
        """The queries of some sequences in tiles of at most `size`."""
        if (size, sequences) not in self._tiles:
            rows = [self.batch.spans[b].rows for b in sequences]
            found = [(b, row) for b, r in zip(sequences, rows, strict=True) for row in range(r.start, r.stop, size)]
            both = torch.tensor(found, dtype=torch.int32).reshape(-1, 2).to(self.sequence.device)
            first_rows = tuple(row for _, row in found)
            self._tiles[size, sequences] = Tiles(both[:, 0].contiguous(), both[:, 1].contiguous(), first_rows)
        return self._tiles[size, sequences]

    @property
    def num_columns(self) -> int:
        return len(self.column_block)

    @property
    def most_pages(self) -> int:
        """Pages of the longest context."""
        return max(len(span.pages) for span in self.batch.spans)

    def readers(self, block_ids_TRN: Tensor, rows: slice = slice(None)) -> Readers:
        """The selection of some rows, turned round, by one sort on the device."""
        num_groups = block_ids_TRN.shape[1]
        column_TRN = block_ids_TRN + self.column_start[self.sequence[rows].long()][:, None, None]
        group_R1 = torch.arange(num_groups, device=block_ids_TRN.device, dtype=torch.int32)[:, None]
        nowhere = self.num_columns * num_groups
        key_TRN = torch.where(block_ids_TRN >= 0, column_TRN * num_groups + group_R1, nowhere)
        ordered, entry = key_TRN.flatten().sort(stable=True)
        bounds = torch.arange(nowhere + 1, device=ordered.device, dtype=ordered.dtype)
        return Readers(torch.searchsorted(ordered, bounds), entry)
