"""The paged cache of keys and values. Letters: P pages, R key/value heads, S page size, D head size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openm3.config import ModelConfig
from openm3.errors import InputError


@dataclass(frozen=True)
class LayerCache:
    """Keys (after rotation) and values of one layer, `[P, R, S, D]` each."""

    k_PRSD: Tensor
    v_PRSD: Tensor


@dataclass(frozen=True)
class KVCache:
    """One `LayerCache` a layer; page p holds the same tokens in all of them."""

    layers: tuple[LayerCache, ...]

    @classmethod
    def allocate(
        cls, config: ModelConfig, num_pages: int, page_size: int, dtype: torch.dtype, device: torch.device | None = None
    ) -> KVCache:
        """Reserves the pages; on a CPU the system gives memory to a page when it is first written.

        Raises:
            InputError: the memory can't be had.
        """
        shape = (num_pages, config.num_key_value_heads, page_size, config.head_dim)
        try:
            return cls(
                tuple(
                    LayerCache(*(torch.zeros(shape, dtype=dtype, device=device) for _ in range(2)))
                    for _ in range(config.num_hidden_layers)
                )
            )
        except RuntimeError as error:
            gib = num_pages * page_bytes(config, page_size, dtype) / (1 << 30)
            raise InputError("cache_bytes", f"{gib:.1f} GiB of cache can't be allocated; ask for less") from error


def page_bytes(config: ModelConfig, page_size: int, dtype: torch.dtype) -> int:
    """Bytes of one page over all layers, keys and values."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * page_size * config.head_dim * dtype.itemsize
