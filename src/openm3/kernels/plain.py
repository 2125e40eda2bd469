"""Plain `[B, heads, tokens, size]` tensors as the packed tokens and pages that the kernels read.

Letters: B batch, H query heads, R key/value heads, T query tokens, L tokens of the context, D head size, S block size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openm3.kernels.paged import PagedBatch


@dataclass(frozen=True)
class PlainLayout:
    """How a batch of equally long sequences lies as packed tokens and pages; the T queries are the last of L tokens."""

    batch: PagedBatch
    num_blocks: int
    block_size: int
    context_len: int
    num_queries: int

    @classmethod
    def build(cls, q_BHTD: Tensor, k_BRLD: Tensor, block_size: int) -> PlainLayout:
        """The layout of these queries and keys."""
        (count, _, num_queries, _), context_len = q_BHTD.shape, k_BRLD.shape[2]
        blocks = -(-context_len // block_size)
        pages = [range(b * blocks, (b + 1) * blocks) for b in range(count)]
        batch = PagedBatch.build([num_queries] * count, [context_len] * count, pages, block_size)
        return cls(batch, blocks, block_size, context_len, num_queries)

    def pack(self, x_BHTD: Tensor) -> Tensor:
        """`[B*T, H, D]`."""
        return x_BHTD.transpose(1, 2).flatten(0, 1)

    def unpack(self, x_THD: Tensor) -> Tensor:
        """`[B, H, T, ...]` of packed `[B*T, H, ...]`."""
        return x_THD.unflatten(0, (-1, self.num_queries)).transpose(1, 2)

    def to_pages(self, x_BRLD: Tensor) -> Tensor:
        """`[B*blocks, R, S, D]`, the last page of a sequence filled up with zeros; a view where it can be one."""
        padding = self.num_blocks * self.block_size - self.context_len
        padded = torch.nn.functional.pad(x_BRLD, (0, 0, 0, padding)) if padding else x_BRLD
        return padded.unflatten(2, (self.num_blocks, self.block_size)).transpose(1, 2).flatten(0, 1)

    def from_pages(self, x_PRSD: Tensor) -> Tensor:
        """`[B, R, L, D]`, what `to_pages` was given."""
        x_BbRSD = x_PRSD.unflatten(0, (-1, self.num_blocks))
        return x_BbRSD.transpose(1, 2).flatten(2, 3)[:, :, : self.context_len]
