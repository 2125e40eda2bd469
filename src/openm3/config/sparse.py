"""Which blocks a query reads."""

from __future__ import annotations

from dataclasses import dataclass

from openm3.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SparseConfig:
    """Which blocks a query reads, with the names of the published `sparse_attention_config`.

    Attributes:
        index_block_size: tokens in a block, which is also a page of the cache; 16 to 256.
        index_topk_blocks: blocks that every query reads per group of heads, its own block included.
        index_local_blocks: the query's own block and those just before it that are always read.
        index_init_blocks: blocks at the start of the context that are always read.
    """

    index_block_size: int = 128
    index_topk_blocks: int = 16
    index_local_blocks: int = 1
    index_init_blocks: int = 0

    def __post_init__(self) -> None:
        if not 16 <= self.index_block_size <= 256:
            raise InputError("index_block_size", f"must be from 16 to 256, got {self.index_block_size}")
        if self.index_local_blocks < 1:
            raise InputError("index_local_blocks", "must be at least 1: a query always reads its own block")
        if self.index_init_blocks < 0:
            raise InputError("index_init_blocks", f"can't be negative, got {self.index_init_blocks}")
        forced = self.index_local_blocks + self.index_init_blocks
        if self.index_topk_blocks < forced:
            raise InputError(
                "index_topk_blocks", f"{self.index_topk_blocks} is less than the {forced} blocks always read"
            )
