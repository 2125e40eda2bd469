"""How a model is split: the parts of all processes are the whole, each read without the others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from helpers.tiny_m3 import tiny_m3_config, write_tiny_m3
from openm3.config import ModelConfig
from openm3.config.presets import preset
from openm3.errors import InputError, ModelError
from openm3.model.decoder import empty_decoder
from openm3.model.parallel import Parallel, check_split
from openm3.model.stored import Cut
from openm3.model.weights import load_decoder, open_checkpoint


class Alone:
    """A group whose other processes add nothing."""

    def allreduce(self, tensors: list[torch.Tensor], /) -> None:
        return None


def place(rank: int, size: int) -> Parallel:
    return Parallel(rank, size, Alone())


@pytest.mark.parametrize("size", [2, 4])
def test_the_parts_are_the_whole(tmp_path: Path, size: int) -> None:
    checkpoint = open_checkpoint(write_tiny_m3(tmp_path / "m3"))
    whole = dict(load_decoder(checkpoint, torch.float32).named_parameters())
    parts = [load_decoder(checkpoint, torch.float32, parallel=place(r, size)) for r in range(size)]
    named = [dict(part.named_parameters()) for part in parts]
    assert set(whole) == set().union(*named)
    assert ["lm_head.weight" in names for names in named] == [True] + [False] * (size - 1)
    for name, expected in whole.items():
        held = [names[name] for names in named if name in names]
        dims = [d for d in range(expected.ndim) if held[0].shape[d] != expected.shape[d]]
        if re.search(r"\.(k|v|index_q)_proj", name):
            held = held[:: size // 2]  # two heads: with four processes, neighbours share one
        joined = torch.cat(held, dims[0]) if dims else held[0]
        assert torch.equal(joined, expected), name
    experts = [sum(".experts." in name for name in names) for names in named]
    assert experts == [sum(".experts." in name for name in whole) // size] * size


def test_the_published_model_splits_over_16() -> None:
    config = ModelConfig.from_hf(preset("m3"))
    with torch.device("meta"):
        whole = sum(p.numel() for p in empty_decoder(config).parameters())
        part = sum(p.numel() for p in empty_decoder(config, parallel=place(1, 16)).parameters())
    assert part < whole / 15
    with pytest.raises(InputError, match="tensor_parallel: 5 does not divide the model's num_attention_heads, 64"):
        check_split(config, 5)


def test_quantised_columns_are_split_at_blocks(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny_m3(tmp_path / "m3", dtype=torch.bfloat16, mxfp8=True))
    name = "layers.0.self_attn.o_proj.weight"
    whole = checkpoint.read(name)
    assert torch.equal(checkpoint.read(name, cut=Cut(1, 64, 128)), whole[:, 64:128])
    assert torch.equal(checkpoint.read(name, cut=Cut(0, 8, 24)), whole[8:24])
    with pytest.raises(ModelError, match=f"{name} can't be split within its blocks of 32"):
        checkpoint.read(name, cut=Cut(1, 16, 32))


def test_the_configuration_of_a_part() -> None:
    config = ModelConfig.from_hf(tiny_m3_config())
    part = place(3, 4).part_of(config)
    assert (part.num_attention_heads, part.num_key_value_heads) == (2, 1)
    assert part.index is not None and part.index.index_n_heads == 1
    assert part.moe is not None and part.moe.num_local_experts == 8
