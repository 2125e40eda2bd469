"""A model small enough to run thousands of steps in a test, through the same files and code as a real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from openm3.config import ModelConfig
from openm3.model.decoder import Decoder

BOS, EOS = "<|im_start|>", "<|im_end|>"

TINY: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 258,
    "hidden_size": 96,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}

_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tiny_model(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Writes config, weights and a byte-level tokenizer; the same seed gives the same model."""
    folder.mkdir(parents=True)
    config = {**TINY, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(seed)
    decoder = Decoder(ModelConfig.from_hf(config))
    weights = {}
    for name, parameter in decoder.named_parameters():
        full_name = name if name.startswith("lm_head") else f"model.{name}"
        # Larger than a trained model's, so that attention and answers are not all alike.
        noise = torch.randn(parameter.shape, generator=generator)
        weights[full_name] = 1 + 0.1 * noise if parameter.ndim == 1 else 0.25 * noise
    save_file(weights, folder / "model.safetensors")
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer of 258 tokens with a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(BOS, special=True), AddedToken(EOS, special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": BOS, "eos_token": EOS, "add_bos_token": False, "chat_template": _TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
