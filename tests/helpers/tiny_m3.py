"""A random M3 checkpoint in the published layout, with blocks so small that a short context has many."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from helpers.tiny import write_tokenizer
from openm3.config.presets import preset
from openm3.kernels.linear.mxfp8 import quantise
from openm3.model.create import write_checkpoint


def tiny_m3_config(*, sparse: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """The `config.json` of the preset "tiny" with changes of the text network and of its `sparse_attention_config`.

    The limit of the activation is low enough to be met, and the vision part, which is not ours, small.
    """
    raw = copy.deepcopy(preset("tiny"))
    text = raw["text_config"]
    text.update({"vocab_size": 258, "swiglu_limit": 0.7, "bos_token_id": 256, "eos_token_id": 257, **changes})
    text["sparse_attention_config"].update(sparse or {})
    raw["vision_config"] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 2,
        "image_size": 28,
    }
    raw.update({"image_token_index": 250, "video_token_index": 251, "projector_hidden_size": 96})
    return raw


def loud_weights(name: str, shape: tuple[int, ...], generator: torch.Generator, std: float) -> torch.Tensor:
    """Larger than a trained model's, norms and biases too, so that every part leaves its mark on the answer."""
    noise = torch.randn(shape, generator=generator)
    return noise * (0.1 if len(shape) == 1 else 0.2)


def write_tiny_m3(
    folder: Path,
    raw: dict[str, Any] | None = None,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    mxfp8: bool = False,
) -> Path:
    """Writes config, two or more shards and a byte-level tokenizer; the same seed gives the same model."""
    raw = raw or tiny_m3_config()
    write_checkpoint(folder, raw, seed=seed, dtype=dtype, weights=loud_weights, shard_bytes=1 << 20)
    if mxfp8:
        _quantise(folder)
    write_tokenizer(folder)
    return folder


def _quantise(folder: Path) -> None:
    """As in the published MXFP8 checkpoint: all matrices but embedding, head and router."""
    raw = json.loads((folder / "config.json").read_text())
    raw["quantization_config"] = {"quant_method": "mxfp8", "weight_block_size": [1, 32], "activation_scheme": "dynamic"}
    (folder / "config.json").write_text(json.dumps(raw))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        for name in list(tensors):
            if tensors[name].ndim == 2 and not any(part in name for part in ("embed_tokens", "lm_head", "moe.gate.")):
                quantised = quantise(tensors[name])
                tensors[name] = quantised.values_OI
                tensors[f"{name}_scale_inv"] = quantised.scales_OB
                index["weight_map"][f"{name}_scale_inv"] = file.name
        save_file(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
