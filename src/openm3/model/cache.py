"""The paged cache of keys, values and index keys.

Letters: P pages, R key/value heads, S page size, D head size, X index key heads, C index head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from openm3.config import ModelConfig
from openm3.errors import InputError
from openm3.kernels.select_blocks import QuantisedIndex
from openm3.model.arena import Arena
from openm3.model.spill import Residency, Spill


@dataclass(frozen=True)
class LayerCache:
    """Keys (after rotation) and values of one layer, `[P, R, S, D]` each.

    `index_k_PXSC`, `[P, X, S, C]`: the index keys (after rotation) of a layer with an index branch, else None.
    `far_k_PRSD`: the keys as far queries see them, where distances are clamped (`model/clamped.py`), else None.
    `quantised`: what blocks are chosen by, in 8 bits, or None.
    `residency`: of keys and values that lie in a file, what is in memory; else None.
    """

    k_PRSD: Tensor
    v_PRSD: Tensor
    index_k_PXSC: Tensor | None = None
    far_k_PRSD: Tensor | None = None
    quantised: QuantisedIndex | None = None
    residency: Residency | None = None

    def tensors(self) -> dict[str, Tensor]:
        """By name, everything that is written token by token: what is copied and saved of a page.

        `quantised` isn't among them: it is made of pages that are full.
        """
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, Tensor)}

    @property
    def choosing(self) -> Tensor:
        """The keys that blocks are chosen by."""
        if self.index_k_PXSC is not None:
            return self.index_k_PXSC
        return self.k_PRSD if self.far_k_PRSD is None else self.far_k_PRSD


@dataclass(frozen=True)
class PagePart:
    """What a layer keeps of a page in one of its tensors.

    Attributes:
        name: of the tensor in `LayerCache`.
        shape, dtype: of one page.
        chooses: whether blocks are chosen by it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    chooses: bool = False

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def spills(self, *, keeps_keys: bool) -> bool:
        """Whether it goes to the file where there is one: all but what every step scans.

        Index keys are few and always stay; `keeps_keys` says whether the model's own keys do.
        """
        return not self.chooses or (self.name != "index_k_PXSC" and not keeps_keys)


def page_parts(
    config: ModelConfig, layer: int, page_size: int, dtype: torch.dtype, *, far: bool = False
) -> list[PagePart]:
    """What a layer keeps of a page: the one list behind a cache's memory, its size and its copies.

    `far` adds the keys as far queries see them; all layers choose blocks then.
    """
    has_index = config.has_index(layer)
    shape = (config.num_key_value_heads, page_size, config.head_dim)
    parts = [
        PagePart("k_PRSD", shape, dtype, chooses=config.scans_own_keys(layer) and not far),
        PagePart("v_PRSD", shape, dtype),
    ]
    if config.index is not None and has_index:
        index_shape = (config.index.index_n_key_heads, page_size, config.index.index_head_dim)
        parts.append(PagePart("index_k_PXSC", index_shape, dtype, chooses=True))
    if far:
        parts.append(PagePart("far_k_PRSD", shape, dtype, chooses=not has_index))
    return parts


@dataclass(frozen=True)
class KVCache:
    """One `LayerCache` a layer; page p holds the same tokens in all of them.

    `index_rotary_dim`: leading elements of index keys that are rotated.
    """

    layers: tuple[LayerCache, ...]
    index_rotary_dim: int = 0

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
        far: bool = False,
        backend: str | None = None,
        spill: Spill | None = None,
    ) -> KVCache:
        """Reserves the pages; on a CPU the system gives memory to a page when it is first written.

        `quantised` adds the keys that blocks are chosen by in 8 bits, in all layers that choose, for a backend; `far`
        see `page_parts`. With `spill`, all but what every step scans lies in its file; on a CPU.

        Raises:
            InputError: the memory can't be had, or the room in the file.
        """
        arena = Arena() if device is None or device.type == "cpu" else None

        def tensor(part: PagePart, residency: Residency | None) -> Tensor:
            shape = (num_pages, *part.shape)
            if arena is None:
                return torch.zeros(shape, dtype=part.dtype, device=device)
            if residency is not None and spill is not None and part.spills(keeps_keys=spill.keeps_keys):
                return residency.take(shape, part.dtype)
            return arena.take(shape, part.dtype)

        def layer(number: int) -> LayerCache:
            residency = spill.layer(num_pages) if spill else None
            parts = page_parts(config, number, page_size, dtype, far=far)
            tensors = {part.name: tensor(part, residency) for part in parts}
            chosen_by = [tensors[part.name] for part in parts if part.chooses and quantised]
            bytes_ = QuantisedIndex(chosen_by[0], backend) if chosen_by else None
            return LayerCache(**tensors, quantised=bytes_, residency=residency)

        try:
            layers = tuple(layer(number) for number in range(config.num_hidden_layers))
            return cls(layers, config.index_rotary_dim)
        except (RuntimeError, OSError, OverflowError) as error:
            gib = num_pages * page_bytes(config, page_size, dtype, quantised=quantised, far=far) / (1 << 30)
            raise InputError("cache_bytes", f"{gib:.1f} GiB of cache can't be allocated; ask for less") from error

    def copy_page(self, source: int, target: int) -> None:
        """Copies what all layers keep of a page."""
        for layer in self.layers:
            for cache in layer.tensors().values():
                cache[target] = cache[source]


def page_bytes(
    config: ModelConfig, page_size: int, dtype: torch.dtype, *, quantised: bool = False, far: bool = False
) -> int:
    """Bytes of one page over all layers: keys, values, index keys, keys for far queries, and what is quantised."""
    total = 0
    for layer in range(config.num_hidden_layers):
        for part in page_parts(config, layer, page_size, dtype, far=far):
            total += part.num_bytes
            if quantised and part.chooses:
                total += QuantisedIndex.bytes_per_page(*part.shape)
    return total


def spilled_page_bytes(
    config: ModelConfig, page_size: int, dtype: torch.dtype, *, keeps_keys: bool, far: bool = False
) -> int:
    """Of these, the bytes that lie in a file where there is one."""
    layers = (page_parts(config, layer, page_size, dtype, far=far) for layer in range(config.num_hidden_layers))
    return sum(part.num_bytes for parts in layers for part in parts if part.spills(keeps_keys=keeps_keys))
