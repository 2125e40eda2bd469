"""The strict loader: what is missing, extra, misshaped, truncated or unknown is an error that names it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from helpers.tiny import TINY, write_tiny_model
from openm3.config import ModelConfig
from openm3.engine.llm import LLM
from openm3.errors import ModelError
from openm3.kernels.paged import PagedBatch
from openm3.model.batch import Batch
from openm3.model.cache import KVCache
from openm3.model.weights import load_decoder, open_checkpoint

Weights = dict[str, torch.Tensor]


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


def load(path: Path) -> Any:
    return load_decoder(open_checkpoint(path), torch.float32)


def change(folder: Path, edit: Callable[[Weights], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors")


def logits(path: Path, ids: list[int]) -> torch.Tensor:
    checkpoint = open_checkpoint(path)
    decoder = load_decoder(checkpoint, torch.float32).pack()
    pages = list(range(-(-len(ids) // 16)))
    paged = PagedBatch.build([len(ids)], [len(ids)], [pages], page_size=16)
    cache = KVCache.allocate(checkpoint.config, len(pages), 16, torch.float32)
    with torch.inference_mode():
        out: torch.Tensor = decoder(Batch(torch.tensor(ids), paged, torch.arange(len(ids))), cache)
    return out


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": False},
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 5000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ],
    ids=["tied", "untied", "llama3-rope"],
)
def test_a_folder_saved_by_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(LlamaConfig(**{**TINY, **changes})).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    ids = torch.randint(0, 256, (100,)).tolist()
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(logits(tmp_path, ids), expected, atol=1e-5, rtol=0)


def test_a_missing_tensor(folder: Path) -> None:
    change(folder, lambda w: w.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelError, match=r"tensor 'layers.1.mlp.up_proj.weight' is missing"):
        load(folder)


def test_an_extra_tensor(folder: Path) -> None:
    change(folder, lambda w: w.update({"model.layers.1.mlp.up_prj.weight": torch.zeros(2)}))
    with pytest.raises(ModelError, match=r"'model.layers.1.mlp.up_prj.weight'; did you mean 'layers.1.mlp.up_proj"):
        load(folder)


def test_index_weights_are_never_dropped_in_silence(folder: Path) -> None:
    change(folder, lambda w: w.update({"model.layers.0.self_attn.index_q_proj.weight": torch.zeros(2, 2)}))
    with pytest.raises(ModelError, match="unexpected tensor 'model.layers.0.self_attn.index_q_proj.weight'"):
        load(folder)


def test_a_misshaped_tensor(folder: Path) -> None:
    change(folder, lambda w: w.update({"model.norm.weight": torch.zeros(3)}))
    with pytest.raises(ModelError, match=r"tensor model.norm.weight has shape \[3\], expected \[96\]"):
        load(folder)


def test_an_integer_tensor(folder: Path) -> None:
    change(folder, lambda w: w.update({"model.norm.weight": torch.zeros(96, dtype=torch.int8)}))
    with pytest.raises(ModelError, match=r"tensor model.norm.weight has dtype I8"):
        load(folder)


def test_a_truncated_file(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="model.safetensors: not a whole safetensors file"):
        load(folder)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has neither model.safetensors nor model.safetensors.index.json"):
        load(folder)


@pytest.mark.parametrize("name", ["model-9.safetensors", "../elsewhere.safetensors"])
def test_an_index_that_names_a_file_that_is_not_there(folder: Path, name: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(ModelError, match="which is not in"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt_neox"}, "model_type 'gpt_neox' is not supported; supported: llama, mistral"),
        ({"hidden_sise": 3}, "unknown key 'hidden_sise'; did you mean 'hidden_size'"),
        ({"sparse_attention_config": {}}, "unknown key 'sparse_attention_config'"),
        ({"sliding_window": 4096}, "sliding_window = 4096 is not supported"),
        ({"attention_bias": True}, "attention_bias = True is not supported"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope type 'yarn' is not supported"),
        ({"num_attention_heads": 5}, "num_attention_heads 5 is not a multiple of num_key_value_heads 2"),
        ({"vocab_size": "many"}, "vocab_size must be a number"),
        ({"hidden_size": 0}, "hidden_size must be positive"),
    ],
)
def test_configurations_that_are_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    (folder / "config.json").write_text(json.dumps({**TINY, **changes}))
    with pytest.raises(ModelError, match=message):
        load(folder)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ModelError, match="key 'num_hidden_layers' is missing"):
        ModelConfig.from_hf({key: value for key, value in TINY.items() if key != "num_hidden_layers"})


def test_broken_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config.json: can't be read as JSON"):
        load(folder)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model file or folder"):
        open_checkpoint(tmp_path / "none.gguf")


def test_other_weights_give_other_answers(tmp_path: Path, tiny_model: Path) -> None:
    other = write_tiny_model(tmp_path / "other", seed=1)
    assert LLM(other).generate(["hello"])[0].token_ids != LLM(tiny_model).generate(["hello"])[0].token_ids


# --- GGUF -----------------------------------------------------------------------------------------------------------


def test_a_truncated_gguf(default_model_path: Path, tmp_path: Path) -> None:
    for size in (0, 10, 5000, 90_000_000):
        cut = tmp_path / "cut.gguf"
        with default_model_path.open("rb") as whole:
            cut.write_bytes(whole.read(size))
        with pytest.raises(ModelError, match=r"cut.gguf: not a whole GGUF file"):
            load(cut)


def write_gguf(path: Path, *, arch: str = "llama", tensor: str = "token_embd.weight", **keys: Any) -> Path:
    writer = gguf.GGUFWriter(path, arch)
    for key, value in {"block_count": 1, "embedding_length": 8, **keys}.items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_string)(f"{arch}.{key}", value)
    writer.add_tensor(tensor, np.zeros((4, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_gguf_files_that_are_refused(tmp_path: Path) -> None:
    for message, kwargs in {
        "architecture 'bert' is not supported": {"arch": "bert"},
        "unknown tensor 'blk.0.attn_qq.weight'; did you mean 'blk.N.attn_q.weight'": {"tensor": "blk.0.attn_qq.weight"},
        "key 'llama.expert_count' = 8 is not understood": {"expert_count": 8},
        "the configuration is incomplete": {},
    }.items():
        with pytest.raises(ModelError, match=message):
            open_checkpoint(write_gguf(tmp_path / "bad.gguf", **kwargs))  # type: ignore[arg-type]


def test_every_type_of_a_gguf_is_dequantised_and_an_unknown_one_is_named(
    default_model_path: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(default_model_path)
    assert checkpoint.read("layers.0.mlp.down_proj.weight").shape == (576, 1536)  # Q4_1
    assert checkpoint.read("norm.weight").dtype == torch.float32  # F32
    data = bytearray(default_model_path.read_bytes())
    name = b"blk.0.ffn_down.weight"
    at = data.index(name) + len(name) + 4 + 2 * 8  # behind the name: count of dimensions, two dimensions, the type
    assert data[at] == gguf.GGMLQuantizationType.Q4_1
    data[at] = gguf.GGMLQuantizationType.I32
    broken = tmp_path / "type.gguf"
    broken.write_bytes(data)
    with pytest.raises(ModelError, match=r"blk.0.ffn_down.weight|not a whole GGUF"):
        load(broken)
