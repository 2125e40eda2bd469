"""`shift_pages`: keys that were moved are keys rotated at where they are now."""

from __future__ import annotations

import json

import pytest
import torch

from helpers.tiny import TINY
from helpers.tiny_m3 import tiny_m3_config
from openm3.config import ModelConfig
from openm3.kernels.backend import BACKENDS
from openm3.model.cache import KVCache
from openm3.model.rope import inverse_frequencies, rotate_, rotation
from openm3.model.shift import shift_pages

PAGE = 16
MODELS = {"llama": ModelConfig.from_hf(TINY), "m3": ModelConfig.from_hf(json.loads(json.dumps(tiny_m3_config())))}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("model", MODELS)
def test_moved_keys_are_keys_rotated_there(model: str, dtype: torch.dtype) -> None:
    """Also by one that is moved twice, and one far from the beginning."""
    config = MODELS[model]
    cache = KVCache.allocate(config, 8, PAGE, dtype)
    inv_freq_E = inverse_frequencies(config)
    moves = {3: (48, -16), 0: (400_000, -399_984), 5: (64, 0)}  # page: where it begins, and by how much it moves
    plain = {}
    for layer, kept in enumerate(cache.layers):
        for name in ("k_PRSD", "v_PRSD", "index_k_PXSC"):
            if (tensor := getattr(kept, name)) is not None:
                tensor.normal_(generator=torch.Generator().manual_seed(layer))
                plain[layer, name] = tensor.clone()
                if name != "v_PRSD":
                    for page, (start, _) in moves.items():
                        tensor[page] = rotated(plain[layer, name][page], start, inv_freq_E)
    before = {key: getattr(cache.layers[key[0]], key[1]).clone() for key in plain}
    shift_pages(cache, list(moves), [shift for _, shift in moves.values()], inv_freq_E)
    shift_pages(cache, [3], [-16], inv_freq_E)
    for (layer, name), plain_PXSD in plain.items():
        tensor = getattr(cache.layers[layer], name)
        others = [page for page in range(8) if page not in moves] if name != "v_PRSD" else range(8)
        for page in others:
            assert torch.equal(tensor[page], before[layer, name][page]), "nothing else changes"
        if name != "v_PRSD":
            assert torch.equal(tensor[5], before[layer, name][5]), "a move by nothing changes no bit"
            tolerance = 0.1 if dtype is torch.bfloat16 else 1e-4
            torch.testing.assert_close(tensor[3], rotated(plain_PXSD[3], 16, inv_freq_E), atol=tolerance, rtol=0)
            far = rotated(plain_PXSD[0], 16, inv_freq_E)
            torch.testing.assert_close(tensor[0], far, atol=tolerance, rtol=0)


@pytest.mark.parametrize("model", MODELS)
def test_what_far_queries_see_stays(model: str) -> None:
    cache = KVCache.allocate(MODELS[model], 4, PAGE, torch.float32, far=True)
    for kept in cache.layers:
        for tensor in kept.tensors().values():
            tensor.normal_()
    before = [{name: tensor.clone() for name, tensor in kept.tensors().items()} for kept in cache.layers]
    shift_pages(cache, [2], [-32], inverse_frequencies(MODELS[model]))
    for kept, then in zip(cache.layers, before, strict=True):
        assert [name for name, tensor in kept.tensors().items() if not torch.equal(tensor, then[name])] == ["k_PRSD"]


@pytest.mark.skipif("native" not in BACKENDS, reason="keys of 8 bits are the native backend's")
@pytest.mark.parametrize("far", [False, True])
def test_keys_of_8_bits_are_made_again(far: bool) -> None:
    from openm3.kernels.select_blocks import QuantisedIndex

    config = MODELS["llama"]
    cache = KVCache.allocate(config, 4, PAGE, torch.float32, quantised=True, far=far)
    for kept in cache.layers:
        kept.k_PRSD.normal_()
        kept.choosing.normal_()
    shift_pages(cache, [2], [-32], inverse_frequencies(config))
    for kept in cache.layers:
        fresh = QuantisedIndex(kept.choosing)
        fresh.quantise(kept.choosing, torch.tensor([2]))
        assert kept.quantised is not None
        assert torch.equal(kept.quantised.keys_PXSC[2], fresh.keys_PXSC[2])
        assert torch.equal(kept.quantised.bounds_PX4[2], fresh.bounds_PX4[2])


def rotated(keys_XSD: torch.Tensor, start: int, inv_freq_E: torch.Tensor) -> torch.Tensor:
    """One page's keys, rotated at the positions from `start` on."""
    keys_SXD = keys_XSD.float().transpose(0, 1).clone(memory_format=torch.contiguous_format)
    turned = rotate_(keys_SXD, rotation(inv_freq_E, torch.arange(start, start + keys_SXD.shape[0])))
    return turned.transpose(0, 1).to(keys_XSD.dtype)
