"""Quantised weights that stay so: a GGUF file's own, which change no bit, and any checkpoint's in 8 bits."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from openm3.cli.inspect import inspect
from openm3.config import EngineConfig
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams
from openm3.errors import InputError
from openm3.kernels.backend import BACKENDS
from openm3.model.branch import open_model
from openm3.model.decoder import Decoder
from openm3.model.gguf import _grouped
from openm3.model.stored import Cut
from openm3.model.weights import load_decoder, open_checkpoint

needs_native = pytest.mark.skipif("native" not in BACKENDS, reason="installed without a C++ compiler")
KINDS = [gguf.GGMLQuantizationType[name] for name in ("Q4_0", "Q4_1", "Q8_0")]


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_gguf_mean_what_its_library_says(kind: gguf.GGMLQuantizationType) -> None:
    blocks = gguf.quants.quantize(np.random.default_rng(0).standard_normal((6, 96), dtype=np.float32), kind)
    expected = torch.from_numpy(gguf.quants.dequantize(blocks, kind))
    assert torch.equal(_grouped(blocks, kind).dequantise(torch.float32), expected)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("layers.3.self_attn.q_proj.weight", 5.0),
        ("layers.0.mlp.down_proj.weight", 5.0),
        ("embed_tokens.weight", 8.5),
        ("norm.weight", None),
    ],
)
def test_what_a_gguf_file_keeps_is_what_it_is_dequantised_to(
    default_model_path: Path, name: str, bits: float | None
) -> None:
    checkpoint = open_checkpoint(default_model_path)
    assert checkpoint.packed_bits(name) == bits
    if bits is None:
        return
    for cut in (None, Cut(0, 64, 192), Cut(1, 64, 96)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            packed = checkpoint.read_quantised(name, cut=cut)
        assert not isinstance(packed, torch.Tensor)
        assert torch.equal(packed.dequantise(torch.float32), checkpoint.read(name, cut=cut))


@needs_native
def test_a_ggufs_own_values_change_no_bit(default_model_path: Path) -> None:
    params = SamplingParams(max_tokens=12, logprobs=3, ignore_eos=True)
    llms = [LLM(default_model_path, EngineConfig(weights=weights)) for weights in ("auto", "bf16")]
    assert [llm.engine.runner.weights for llm in llms] == ["packed", "bf16"]
    kept, wide = (llm.generate(["def quicksort(items):", "Paris is"], params) for llm in llms)
    for a, b in zip(kept, wide, strict=True):
        assert a.token_ids == b.token_ids
        assert a.logprobs == b.logprobs
    # The index branch is no part of the GGUF; its projections are bf16.
    assert layouts(llms[0].engine.runner.decoder) == {"native int4", "native int8", "native"}


@needs_native
def test_8_bits_of_any_checkpoint(tiny_model: Path) -> None:
    llms = [LLM(tiny_model, EngineConfig(weights=weights)) for weights in ("int8", "auto")]
    assert [llm.engine.runner.weights for llm in llms] == ["int8", "bf16"]
    assert layouts(llms[0].engine.runner.decoder) == {"native int8"}
    params = SamplingParams(max_tokens=1, logprobs=5)
    rounded, exact = (llm.generate([[5, 6, 7, 8]], params)[0].logprobs[0] for llm in llms)
    assert rounded.logprob == pytest.approx(exact.logprob, abs=0.05) and rounded != exact


@needs_native
@pytest.mark.parametrize("weights", ["auto", "bf16", "int8"])
def test_the_memory_plan_is_what_is_held(default_model_path: Path, weights: str) -> None:
    result = CliRunner().invoke(inspect, [str(default_model_path), "--json", "--weights", weights])
    report = json.loads(result.stdout)
    checkpoint = open_model(default_model_path, EngineConfig())
    decoder = load_decoder(checkpoint, torch.bfloat16, backend="native", weights=report["weights"], pack=True)
    packed = [linear.packed for linear in decoder.fused_linears()]
    held = sum(p.nbytes for p in decoder.parameters()) + sum(p.packed.nbytes for p in packed if p is not None)
    assert report["memory"]["weights"] == held
    assert report["weights"] == ("packed" if weights == "auto" else weights)


def test_what_is_refused_is_named(default_model_path: Path, tiny_model: Path) -> None:
    for path, config, message in (
        (tiny_model, EngineConfig(weights="packed"), "weights: 'packed' is for MXFP8 checkpoints, and .* has none"),
        (default_model_path, EngineConfig(weights="packed", dtype="float32"), "weights: 'packed' computes in bfloat16"),
        (default_model_path, EngineConfig(weights="packed", backend="torch"), "weights: 'packed' needs the native"),
        (tiny_model, EngineConfig(weights="int8", backend="torch"), "weights: 'int8' needs the native backend"),
    ):
        with pytest.raises(InputError, match=message):
            LLM(path, config)
    with pytest.raises(InputError, match="weights: must be 'auto', 'bf16', 'packed' or 'int8'"):
        EngineConfig(weights="int4")  # type: ignore[arg-type]


def test_auto_is_bf16_where_packed_would_not_be_free(default_model_path: Path) -> None:
    for config in (EngineConfig(backend="torch"), EngineConfig(dtype="float32")):
        assert LLM(default_model_path, config).engine.runner.weights == "bf16"


def layouts(decoder: Decoder) -> set[str]:
    return {linear.packed.layout for linear in decoder.fused_linears() if linear.packed is not None}
