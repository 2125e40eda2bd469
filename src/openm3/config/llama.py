"""Reads the published `config.json` of the Llama family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from openm3.config.keys import WITHOUT_EFFECT, build, drop_only, rope_scaling
from openm3.config.model import ModelConfig

# Types whose text network is exactly this decoder. Mistral differs by its sliding window alone, which _ONLY refuses.
MODEL_TYPES = ("llama", "mistral")

# Keys that would change the forward pass, and the values for which they don't; the first is the usual one.
_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "sliding_window": (None,),
    "partial_rotary_factor": (1.0, None),
    "quantization_config": (None,),
}

# What a file of these types may set: not M3's parts.
_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "rope_theta",
    "max_position_embeddings",
    "tie_word_embeddings",
    "rope_scaling",
)


def read(raw: Mapping[str, Any], source: str) -> ModelConfig:
    """The configuration in a file of one of `MODEL_TYPES`; see `ModelConfig.from_hf`."""
    config = dict(raw)
    for key in (*WITHOUT_EFFECT, "model_type"):
        config.pop(key, None)
    drop_only(config, _ONLY, source)
    rope = dict(config.pop("rope_parameters", None) or {})  # transformers 5 moved both RoPE fields here
    if "rope_theta" in rope:
        config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope_scaling(config.get("rope_scaling") or rope, source)
    config.setdefault("rope_theta", 10000.0)
    config.setdefault("tie_word_embeddings", False)
    config.setdefault("num_key_value_heads", config.get("num_attention_heads"))
    if config.get("head_dim") is None and "hidden_size" in config and config.get("num_attention_heads"):
        config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    return cast(ModelConfig, build(ModelConfig, config, source, known=_FIELDS))
