from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from helpers.branches import write_branch
from helpers.tiny_m3 import write_tiny_m3
from openm3.cli.inspect import inspect
from openm3.errors import InputError
from openm3.model.weights import load_decoder, open_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_m3(tmp_path / "m3", dtype=torch.bfloat16, mxfp8=True)


def test_what_a_model_is_and_needs(folder: Path) -> None:
    result = CliRunner().invoke(inspect, [str(folder), "--context", "200"])
    assert result.exit_code == 0
    assert (
        "3 layers of 96; 2 with 8 experts, 2 of them and a shared one for each token; 2 read 3 blocks" in result.stdout
    )
    assert "614,192 parameters, 343,472 active for a token" in result.stdout
    assert "73 F8_E4M3" in result.stdout and "73 U8" in result.stdout
    assert "memory for 200 tokens" in result.stdout
    assert "would not load" not in result.stdout


def test_the_memory_is_what_is_held(folder: Path) -> None:
    report = json.loads(CliRunner().invoke(inspect, [str(folder), "--json"]).stdout)
    decoder = load_decoder(open_checkpoint(folder), torch.bfloat16)
    assert report["memory"]["weights"] == sum(p.nbytes for p in decoder.parameters())
    assert report["parameters"] == sum(p.numel() for p in decoder.parameters())
    assert sum(tensor["bytes"] for tensor in report["tensors"]) < report["memory"]["weights"]
    packed = json.loads(CliRunner().invoke(inspect, [str(folder), "--json", "--weights", "packed"]).stdout)
    widened = sum(
        tensor["bytes"] for tensor in report["tensors"] if tensor["dtype"] == "BF16" and len(tensor["shape"]) == 1
    )
    assert packed["memory"]["weights"] == sum(tensor["bytes"] for tensor in report["tensors"]) + widened


def test_the_index_branch_that_a_dense_model_is_given(tiny_model: Path, tmp_path: Path) -> None:
    branch = write_branch(tiny_model, tmp_path / "branch", sparse_attention_freq=(0, 1), own_key_layers=(0,))
    args = [str(tiny_model), "--index-branch", str(branch)]
    result = CliRunner().invoke(inspect, args)
    assert "2 layers of 96; 2 read 3 blocks of 16 tokens, 1 of them chosen by their own keys" in result.stdout
    form = "2 query heads and one key head for all of 16, rotated, in 1 of 2 layers, 1 choose by own keys"
    assert f"from {branch}: {form}" in result.stdout
    report = json.loads(CliRunner().invoke(inspect, [*args, "--json"]).stdout)
    dense = json.loads(CliRunner().invoke(inspect, [str(tiny_model), "--json"]).stdout)
    assert report["index_branch"]["made"] == {"seed": 0}
    assert dense["index_branch"] is None
    assert report["parameters"] - dense["parameters"] == 3 * 16 * 96 + 2 * 16


def test_a_context_past_the_trained_window_keeps_keys_twice(folder: Path) -> None:
    raw = json.loads((folder / "config.json").read_text())
    raw["text_config"]["max_position_embeddings"] = 512
    (folder / "config.json").write_text(json.dumps(raw))
    cache = {}
    for extend in ("auto", "none", "yarn"):
        args = [str(folder), "--json", "--context", "2048", "--extend", extend]
        report = json.loads(CliRunner().invoke(inspect, args).stdout)
        cache[report["extend"]] = report["memory"]["cache"]
    raw = raw["text_config"]
    keys = 2 * raw["num_hidden_layers"] * raw["num_key_value_heads"] * raw["head_dim"] * 2048
    assert cache == {"none": cache["none"], "yarn": cache["none"], "clamped": cache["none"] + keys}
    assert (
        "trained for 512 tokens; past them --extend clamped"
        in CliRunner().invoke(inspect, [str(folder), "--context", "2048"]).stdout
    )


def test_what_would_not_load_is_told_and_no_weight_is_read(folder: Path) -> None:
    raw = json.loads((folder / "config.json").read_text())
    raw["text_config"]["num_hidden_layers"] = 2
    for name in ("moe_layer_freq", "sparse_attention_config"):
        value = raw["text_config"][name]
        (value["sparse_attention_freq"] if isinstance(value, dict) else value).pop()
    raw["text_config"]["vocab_size"] = 300
    (folder / "config.json").write_text(json.dumps(raw))
    result = CliRunner().invoke(inspect, [str(folder)])
    assert result.exit_code == 1
    assert "would not load: unexpected tensor 'language_model.model.layers.2." in result.stdout
    assert "embed_tokens.weight has shape [258, 96], expected [300, 96]" in result.stdout
    assert "more; --json lists them" in result.stdout


def test_packed_is_refused_where_nothing_is_quantised(tiny_model: Path) -> None:
    result = CliRunner().invoke(inspect, [str(tiny_model), "--weights", "packed"])
    assert isinstance(result.exception, InputError)


def test_a_llama_is_inspected_too(tiny_model: Path) -> None:
    result = CliRunner().invoke(inspect, [str(tiny_model)])
    assert result.exit_code == 0 and "2 layers of 96\n" in result.stdout
