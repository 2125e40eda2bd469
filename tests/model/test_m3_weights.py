"""M3 checkpoints: quantised, sharded, incomplete, broken."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.tiny_m3 import tiny_m3_config, write_tiny_m3
from openm3.config import EngineConfig, ModelConfig
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams
from openm3.errors import InputError, ModelError
from openm3.kernels.linear import MXFP8Weight
from openm3.model.cache import KVCache, page_bytes
from openm3.model.decoder import Decoder
from openm3.model.names import sources, to_transformers, why_skipped
from openm3.model.weights import load_decoder, open_checkpoint

EXPERT = "language_model.model.layers.1.block_sparse_moe.experts.3.w1.weight"
Weights = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_m3(tmp_path / "m3")


@pytest.fixture
def quantised(tmp_path: Path) -> Path:
    return write_tiny_m3(tmp_path / "mxfp8", dtype=torch.bfloat16, mxfp8=True)


def load(folder: Path, weights: Literal["bf16", "packed"] = "bf16") -> Decoder:
    return load_decoder(open_checkpoint(folder), torch.bfloat16, weights=weights, pack=weights == "packed")


def change(folder: Path, part: str, edit: Callable[[Weights], object]) -> None:
    """Edits the shard that holds a tensor with this in its name, without its index."""
    for file in sorted(folder.glob("*.safetensors")):
        weights = load_file(file)
        if any(part in name for name in weights):
            edit(weights)
            save_file(weights, file)
            return
    raise AssertionError(part)


def test_mxfp8_dequantised_when_loaded_or_at_each_use_gives_the_same(quantised: Path) -> None:
    params = SamplingParams(max_tokens=8, logprobs=5, ignore_eos=True)
    answers = [
        LLM(quantised, EngineConfig(weights=weights, backend="torch")).generate([list(range(100))], params)[0]
        for weights in ("bf16", "packed")
    ]
    dense, packed = ([top.logprob for top in answer.logprobs[0].top] for answer in answers)
    assert max(abs(a - b) for a, b in zip(dense, packed, strict=True)) < 0.1


def test_mxfp8_is_dequantised_to_the_nearest(quantised: Path, folder: Path) -> None:
    name = "layers.1.block_sparse_moe.experts.3.w1.weight"
    exact, rounded = (open_checkpoint(path).read(name).float() for path in (folder, quantised))
    assert 0 < (exact - rounded).abs().max() < 0.1 * exact.abs().max()


def test_packed_weights_stay_packed(quantised: Path) -> None:
    decoder = load(quantised, "packed")
    experts = decoder.layers[1].block_sparse_moe._joined  # type: ignore[union-attr]
    assert {linear.layout for linear in experts._gate_up} == {"mxfp8"}  # type: ignore[union-attr]


def test_packed_is_refused_where_nothing_is_quantised(folder: Path, quantised: Path) -> None:
    with pytest.raises(InputError, match="'packed' is for MXFP8 checkpoints, and m3 has none"):
        load(folder, "packed")
    with pytest.raises(InputError, match="leave out dtype float32"):
        load_decoder(open_checkpoint(quantised), torch.float32, weights="packed", pack=True)


def test_norms_and_routers_stay_fp32(folder: Path) -> None:
    for name, parameter in load(folder).named_parameters():
        is_fp32 = parameter.ndim == 1 or "moe.gate" in name
        assert parameter.dtype == (torch.float32 if is_fp32 else torch.bfloat16), name


def test_what_is_skipped_says_why() -> None:
    for name in ("mtp.layers.0.norm.weight", "language_model.model.mtp.layers.0.eh_proj.weight"):
        assert why_skipped(name) == "multi-token prediction, which published checkpoints don't use"
    assert why_skipped("vision_tower.vision_model.pre_layrnorm.weight")
    assert why_skipped(EXPERT) is None


def test_mtp_and_vision_tensors_are_not_the_text_networks(folder: Path) -> None:
    extra = {"mtp.norm.weight": torch.zeros(3), "vision_tower.vision_model.pre_layrnorm.bias": torch.zeros(3)}
    change(folder, "experts.3.w1", lambda w: w.update(extra))
    load(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w.pop(EXPERT), "tensor 'layers.1.block_sparse_moe.experts.3.w1.weight' is missing"),
        (
            lambda w: w.update({EXPERT.replace("w1", "w4"): torch.zeros(2)}),
            f"unexpected tensor '{EXPERT.replace('w1', 'w4')}'; did you mean 'layers.1.block_sparse_moe.experts.3.w",
        ),
        (lambda w: w.update({EXPERT: torch.zeros(2, 2)}), f"{EXPERT} has shape [2, 2], expected [64, 96]"),
        (lambda w: w.update({EXPERT: torch.zeros(64, 96, dtype=torch.int8)}), "has dtype I8"),
        (lambda w: w.update({EXPERT: w[EXPERT].to(torch.float8_e4m3fn)}), "F8_E4M3 and no scales beside it"),
        (
            lambda w: w.update({EXPERT + "_scale_inv": torch.zeros(64, 3, dtype=torch.uint8)}),
            f"{EXPERT} is not MXFP8: expected float8_e4m3fn values",
        ),
        (lambda w: w.update({EXPERT + "_packed": torch.zeros(2, 2, dtype=torch.uint8)}), "is NVFP4, which is not"),
    ],
)
def test_tensors_that_are_refused(folder: Path, edit: Callable[[Weights], object], message: str) -> None:
    change(folder, "experts.3.w1", edit)
    with pytest.raises(ModelError, match=re.escape(message)):
        load(folder)


@pytest.mark.parametrize("sparse", [None, [0, 0, 1]])
def test_an_index_branch_that_the_configuration_does_not_have(folder: Path, sparse: list[int] | None) -> None:
    """Never a silent dense model."""
    raw: dict[str, Any] = tiny_m3_config()
    if sparse is None:
        del raw["text_config"]["sparse_attention_config"]
    else:
        raw["text_config"]["sparse_attention_config"].update(sparse_attention_freq=sparse)
    (folder / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ModelError, match="of an index branch, and config.json"):
        load(folder)


def test_a_layer_without_its_index_branch(folder: Path) -> None:
    raw = tiny_m3_config(sparse={"sparse_attention_freq": [1, 1, 1], "sparse_disable_index_value": 1})
    (folder / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ModelError, match="'layers.0.self_attn.index_k_norm.weight' is missing"):
        load(folder)


def test_a_truncated_shard_and_one_that_is_not_there(folder: Path) -> None:
    file = sorted(folder.glob("*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ModelError, match=f"{file.name}: not a whole safetensors file"):
        load(folder)
    file.unlink()
    with pytest.raises(ModelError, match=f"names {file.name}, which is not in"):
        load(folder)


@pytest.mark.parametrize("kind", ["folder", "quantised"])
def test_nan_is_warned_of_by_name(kind: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(kind)

    def poison(weights: Weights) -> None:
        bits = weights[EXPERT].view(torch.uint8 if weights[EXPERT].dtype.itemsize == 1 else torch.int32)
        bits[3, 4] = 0x7F if bits.dtype == torch.uint8 else 0x7FC00000

    change(path, "experts.3.w1", poison)
    with pytest.warns(UserWarning, match=f"{re.escape(EXPERT)} holds NaN"):
        load(path, "packed" if kind == "quantised" else "bf16")


def test_names_both_ways(folder: Path) -> None:
    """Every parameter under transformers' names is found again, and where it lies."""
    config = ModelConfig.from_folder(folder)
    ours = dict(load(folder).named_parameters())
    theirs = to_transformers(ours)
    found = sources(theirs, config)
    assert set(found) == set(ours)
    for name, source in found.items():
        stored = theirs[source.name]
        shape, first = source.cut_shape(tuple(stored.shape)), source.first(tuple(stored.shape))
        assert torch.equal(stored.flatten()[first : first + math.prod(shape)].view(shape), ours[name]), name


def test_the_cache_has_index_keys_and_counts_them(folder: Path) -> None:
    config = ModelConfig.from_folder(folder)
    cache = KVCache.allocate(config, 5, 16, torch.bfloat16)
    held = [t for layer in cache.layers for t in (layer.k_PRSD, layer.v_PRSD, layer.index_k_PXSC) if t is not None]
    assert sum(t.nbytes for t in held) == 5 * page_bytes(config, 16, torch.bfloat16)
    assert [layer.index_k_PXSC is not None for layer in cache.layers] == [False, True, True]


def test_quantised_tensors_are_told_apart(quantised: Path) -> None:
    checkpoint = open_checkpoint(quantised)
    assert checkpoint.packed_bits("layers.1.block_sparse_moe.experts.3.w1.weight") == 8.25
    assert checkpoint.packed_bits("layers.1.block_sparse_moe.gate.weight") is None
    assert isinstance(checkpoint.read_quantised("layers.0.mlp.up_proj.weight"), MXFP8Weight)
