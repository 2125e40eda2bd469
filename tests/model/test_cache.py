"""The paged cache: its memory, its size and its copies all follow one list."""

from __future__ import annotations

import mmap

import pytest
import torch

from helpers.tiny import TINY
from helpers.tiny_m3 import tiny_m3_config
from openm3.config import ModelConfig
from openm3.errors import InputError
from openm3.model.cache import KVCache, page_bytes, page_parts

LLAMA, M3 = ModelConfig.from_hf(TINY), ModelConfig.from_hf(tiny_m3_config())


@pytest.mark.parametrize("config", [LLAMA, M3], ids=["llama", "m3"])
def test_a_page_is_copied_in_all_layers(config: ModelConfig) -> None:
    cache = KVCache.allocate(config, 4, 16, torch.bfloat16)
    tensors = [tensor for layer in cache.layers for tensor in layer.tensors().values()]
    for number, tensor in enumerate(tensors):
        assert not tensor.any()
        tensor[1] = number + 1
    cache.copy_page(1, 3)
    for number, tensor in enumerate(tensors):
        assert torch.equal(tensor[3], torch.full_like(tensor[3], number + 1))
        assert not tensor[0].any() and not tensor[2].any()


@pytest.mark.parametrize("config", [LLAMA, M3], ids=["llama", "m3"])
def test_the_list_of_parts_is_what_is_held(config: ModelConfig) -> None:
    cache = KVCache.allocate(config, 4, 16, torch.bfloat16)
    for number, layer in enumerate(cache.layers):
        parts = page_parts(config, number, 16, torch.bfloat16)
        assert {part.name: (4, *part.shape) for part in parts} == {n: t.shape for n, t in layer.tensors().items()}
        assert all(tensor.data_ptr() % mmap.PAGESIZE == 0 for tensor in layer.tensors().values())
    held = sum(tensor.nbytes for layer in cache.layers for tensor in layer.tensors().values())
    assert held == 4 * page_bytes(config, 16, torch.bfloat16)


def test_more_than_the_system_has_is_one_sentence() -> None:
    for num_pages in (1 << 40, 1 << 60):
        with pytest.raises(InputError, match="cache_bytes: .* GiB of cache can't be allocated; ask for less"):
            KVCache.allocate(LLAMA, num_pages, 16, torch.bfloat16)
