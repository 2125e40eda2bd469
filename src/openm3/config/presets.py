"""Published configurations of M3, and smaller models of the same architecture, as `config.json` has them."""

from __future__ import annotations

from typing import Any

PRESETS = ("tiny", "small", "m3", "m3.1")


def preset(name: str) -> dict[str, Any]:
    """The `config.json` of a preset, of a model without vision part.

    "m3" is the published text network (427 billion parameters) and "m3.1" the same with an index branch in every layer;
    "small" has about 100 million parameters, "tiny" half a million and a vocabulary of bytes and M3's special tokens.

    Raises:
        KeyError: no such preset.
    """
    return {
        "architectures": ["MiniMaxM3SparseForConditionalGeneration"],
        "model_type": "minimax_m3_vl",
        "text_config": {**_COMMON, **_SIZES[name]()},
    }


_COMMON: dict[str, Any] = {
    "model_type": "minimax_m3_text",
    "rms_norm_eps": 1e-6,
    "use_gemma_norm": True,
    "use_qk_norm": True,
    "qk_norm_type": "per_head",
    "attention_output_gate": False,
    "rope_theta": 5000000.0,
    "partial_rotary_factor": 0.5,
    "hidden_act": "swigluoai",
    "swiglu_alpha": 1.702,
    "swiglu_beta": 1.0,
    "swiglu_limit": 7.0,
    "n_shared_experts": 1,
    "scoring_func": "sigmoid",
    "use_routing_bias": True,
    "routed_scaling_factor": 2.0,
    "tie_word_embeddings": False,
}


def _m3() -> dict[str, Any]:
    return {
        "vocab_size": 200064,
        "hidden_size": 6144,
        "num_hidden_layers": 60,
        "num_attention_heads": 64,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "rotary_dim": 64,
        "max_position_embeddings": 1048576,
        "intermediate_size": 3072,
        "dense_intermediate_size": 12288,
        "shared_intermediate_size": 3072,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        "moe_layer_freq": _after(3, 60),
        "sparse_attention_config": _sparse(_after(3, 60), index_dim=128, block_size=128, topk=16, heads=4),
    }


def _m3_1() -> dict[str, Any]:
    return {
        **_m3(),
        "sparse_attention_config": _sparse(_after(0, 60), index_dim=128, block_size=128, topk=16, heads=4),
    }


def _small() -> dict[str, Any]:
    return {
        "vocab_size": 32000,
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "rotary_dim": 32,
        "max_position_embeddings": 32768,
        "intermediate_size": 256,
        "dense_intermediate_size": 2048,
        "shared_intermediate_size": 256,
        "num_local_experts": 16,
        "num_experts_per_tok": 4,
        "moe_layer_freq": _after(1, 8),
        "sparse_attention_config": _sparse(_after(1, 8), index_dim=64, block_size=128, topk=16, heads=4),
    }


def _tiny() -> dict[str, Any]:
    return {
        "vocab_size": 273,
        "hidden_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "rotary_dim": 16,
        "max_position_embeddings": 1024,
        "intermediate_size": 64,
        "dense_intermediate_size": 128,
        "shared_intermediate_size": 64,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "moe_layer_freq": _after(1, 3),
        "sparse_attention_config": _sparse(_after(1, 3), index_dim=16, block_size=16, topk=3, heads=2),
    }


_SIZES = {"tiny": _tiny, "small": _small, "m3": _m3, "m3.1": _m3_1}


def _after(first: int, num_layers: int) -> list[int]:
    return [0] * first + [1] * (num_layers - first)


def _sparse(freq: list[int], *, index_dim: int, block_size: int, topk: int, heads: int) -> dict[str, Any]:
    return {
        "use_sparse_attention": True,
        "sparse_attention_freq": freq,
        "sparse_num_index_heads": heads,
        "sparse_index_dim": index_dim,
        "sparse_block_size": block_size,
        "sparse_topk_blocks": topk,
        "sparse_score_type": "max",
        "sparse_init_block": 0,
        "sparse_local_block": 1,
        "sparse_disable_index_value": freq,
    }
