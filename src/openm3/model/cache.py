"""The paged cache of keys, values and index keys.

Letters: P pages, R key/value heads, S page size, D head size, C index head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openm3.config import ModelConfig
from openm3.errors import InputError
from openm3.kernels.select_blocks import QuantisedIndex


@dataclass(frozen=True)
class LayerCache:
    """Keys (after rotation) and values of one layer, `[P, R, S, D]` each.

    `index_k_P1SC`, `[P, 1, S, C]`: the index keys (after rotation) of a layer with an index branch, else None.
    `quantised`: what blocks are chosen by, in 8 bits, or None.
    """

    k_PRSD: Tensor
    v_PRSD: Tensor
    index_k_P1SC: Tensor | None = None
    quantised: QuantisedIndex | None = None


@dataclass(frozen=True)
class KVCache:
    """One `LayerCache` a layer; page p holds the same tokens in all of them."""

    layers: tuple[LayerCache, ...]

    @classmethod
    def allocate(
        cls,
        config: ModelConfig,
        num_pages: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device | None = None,
        *,
        quantised: bool = False,
    ) -> KVCache:
        """Reserves the pages; on a CPU the system gives memory to a page when it is first written.

        `quantised` adds the keys that blocks are chosen by in 8 bits, in all layers that choose.

        Raises:
            InputError: the memory can't be had.
        """
        shape = (num_pages, config.num_key_value_heads, page_size, config.head_dim)

        def layer(number: int) -> LayerCache:
            k, v = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
            if config.index is None:
                return LayerCache(k, v, quantised=QuantisedIndex(k) if quantised else None)
            if not config.has_index(number):
                return LayerCache(k, v)
            index_k = torch.zeros(num_pages, 1, page_size, config.index.index_head_dim, dtype=dtype, device=device)
            return LayerCache(k, v, index_k, QuantisedIndex(index_k) if quantised else None)

        try:
            return cls(tuple(layer(number) for number in range(config.num_hidden_layers)))
        except RuntimeError as error:
            gib = num_pages * page_bytes(config, page_size, dtype, quantised=quantised) / (1 << 30)
            raise InputError("cache_bytes", f"{gib:.1f} GiB of cache can't be allocated; ask for less") from error


def page_bytes(config: ModelConfig, page_size: int, dtype: torch.dtype, *, quantised: bool = False) -> int:
    """Bytes of one page over all layers: keys, values, index keys, and what is quantised of them."""
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    choosing, num_heads, head_size = config.num_hidden_layers, config.num_key_value_heads, config.head_dim
    if config.index is not None:
        choosing, num_heads, head_size = sum(config.index.sparse_attention_freq), 1, config.index.index_head_dim
        numbers += choosing * head_size
    extra = choosing * QuantisedIndex.bytes_per_page(num_heads, page_size, head_size) if quantised else 0
    return numbers * page_size * dtype.itemsize + extra
