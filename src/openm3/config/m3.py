"""Reads the published `config.json` of M3, and the one that transformers writes for it.

Both have the text network under `text_config`, or alone. The published file has `sparse_attention_config` and
`moe_layer_freq`, transformers' has `index_*`, `layer_types` and `mlp_layer_types`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from openm3.config.keys import WITHOUT_EFFECT, build, drop_only, rope_scaling
from openm3.config.model import IndexConfig, ModelConfig, MoEConfig, SwigluOAI
from openm3.config.names import nearest
from openm3.config.sparse import SparseConfig
from openm3.errors import InputError, ModelError

_WITH_VISION = "minimax_m3_vl"
MODEL_TYPES = (_WITH_VISION, "minimax_m3_vl_text", "minimax_m3", "minimax_m3_text")

# Top-level keys that describe the vision part and its tokens; the text network reads none of them.
VISION_KEYS = (
    "vision_config",
    "image_token_index",
    "video_token_index",
    "image_token_id",
    "video_token_id",
    "image_seq_length",
    "process_image_mode",
    "projector_hidden_act",
    "projector_hidden_size",
    "merged_hidden_size",
    "multimodal_projector_bias",
    "vision_feature_layer",
    "vision_feature_select_strategy",
    "img_token_compression_config",
    "image_grid_pinpoints",
)

# Keys of the text network without effect at inference. The weights of the MTP modules are not published.
_WITHOUT_EFFECT = (
    *WITHOUT_EFFECT,
    "model_type",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "output_router_logits",
    "num_mtp_modules",
    "num_nextn_predict_layers",
    "mtp_transformer_layers",
)

# Keys whose other values would be another network; the first is M3's.
_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("swigluoai", "silu"),  # transformers writes "silu" and computes swigluoai
    "attention_bias": (False,),
    "attention_output_gate": (False,),
    "use_gemma_norm": (True,),
    "use_qk_norm": (True,),
    "qk_norm_type": ("per_head",),
    "scoring_func": ("sigmoid",),
    "use_routing_bias": (True,),
    "n_shared_experts": (1,),
    "num_reward_heads": (0,),
    "sliding_window": (None,),
}

# sparse_attention_config -> our field.
_SPARSE_KEYS = {
    "sparse_num_index_heads": "index_n_heads",
    "sparse_index_dim": "index_head_dim",
    "sparse_block_size": "index_block_size",
    "sparse_topk_blocks": "index_topk_blocks",
    "sparse_local_block": "index_local_blocks",
    "sparse_init_block": "index_init_blocks",
}
_OTHER_SPARSE_KEYS = (
    "use_sparse_attention",
    "sparse_attention_freq",
    "sparse_score_type",
    "sparse_disable_index_value",
)
_INDEX_HEADS = ("index_n_heads", "index_head_dim")
_BLOCKS = ("index_block_size", "index_topk_blocks", "index_local_blocks", "index_init_blocks")

# transformers' names of a layer's kind -> whether it is the sparse one.
_LAYER_TYPES = {"full_attention": 0, "minimax_m3_sparse": 1}
_MLP_LAYER_TYPES = {"dense": 0, "sparse": 1}

_SWIGLU = ("swiglu_alpha", "swiglu_beta", "swiglu_limit")
_MOE = (
    "num_local_experts",
    "num_experts_per_tok",
    "intermediate_size",
    "shared_intermediate_size",
    "routed_scaling_factor",
)
_ROPE = ("rope_theta", "partial_rotary_factor")
_KNOWN = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("rms_norm_eps", "max_position_embeddings", "tie_word_embeddings", "dense_intermediate_size"),
    *("rope_parameters", "rope_scaling", "rotary_dim", *_ROPE, *_SWIGLU, *_MOE, *_INDEX_HEADS, *_BLOCKS),
    *("moe_layer_freq", "mlp_layer_types", "layer_types", "sparse_attention_config"),
)


def read(raw: Mapping[str, Any], source: str) -> ModelConfig:
    """The configuration in a file of one of `MODEL_TYPES`; see `ModelConfig.from_hf`."""
    config = dict(raw)
    if raw["model_type"] == _WITH_VISION:
        config = _text_config(config, source)
    _check_quantization(config, source)
    for key in _WITHOUT_EFFECT:
        config.pop(key, None)
    drop_only(config, _ONLY, source)
    for key in config:
        if key not in _KNOWN:
            raise ModelError(f"{source}: unknown key {key!r}{nearest(key, list(_KNOWN))}")
    for key, value in {"tie_word_embeddings": False, "swiglu_beta": 1.0}.items():
        config.setdefault(key, value)
    parts = {
        "rotary_dim": _rope(config, source),
        "use_gemma_norm": True,
        "use_qk_norm": True,
        "swiglu": build(SwigluOAI, _take(config, _SWIGLU), source),
        "index": _index(config, source),
        "moe": _moe(config, source),
    }
    _rename(config, "dense_intermediate_size", "intermediate_size")
    model = cast(ModelConfig, build(ModelConfig, {**config, **parts}, source))
    if model.index is not None and model.index.index_n_heads != model.num_key_value_heads:
        raise ModelError(
            f"{source}: index_n_heads {model.index.index_n_heads} must equal num_key_value_heads "
            f"{model.num_key_value_heads}: every group has one index query head"
        )
    return model


def _text_config(config: dict[str, Any], source: str) -> dict[str, Any]:
    """The text network's part of a file that has a vision part too."""
    text = config.pop("text_config", None)
    if not isinstance(text, dict):
        raise ModelError(f"{source}: text_config must be a JSON object, got {text!r}")
    quantization = config.pop("quantization_config", None)
    for key in (*_WITHOUT_EFFECT, *VISION_KEYS):
        config.pop(key, None)
    drop_only(config, _ONLY, source)
    tied = config.pop("tie_word_embeddings", False)
    for key in config:
        raise ModelError(f"{source}: unknown key {key!r}{nearest(key, ['text_config', *VISION_KEYS])}")
    return {"tie_word_embeddings": tied, "quantization_config": quantization, **text}


def _check_quantization(config: dict[str, Any], source: str) -> None:
    """Refuses what the loader can't dequantise; which tensors are quantised, the tensors tell."""
    quantization = config.pop("quantization_config", None)
    if quantization is None:
        return
    if not isinstance(quantization, dict):
        raise ModelError(f"{source}: quantization_config must be a JSON object, got {quantization!r}")
    method = str(quantization.get("quant_method"))
    if method == "mxfp8" and quantization.get("weight_block_size", [1, 32]) == [1, 32]:
        return
    if "nvfp4" in str(quantization).lower():
        raise ModelError(f"{source}: NVFP4 weights are not supported; take the bf16 or the MXFP8 checkpoint")
    raise ModelError(
        f"{source}: quantization_config with quant_method {method!r} and weight_block_size "
        f"{quantization.get('weight_block_size')} is not supported; supported: 'mxfp8' with [1, 32]"
    )


def _rope(config: dict[str, Any], source: str) -> int:
    """`rotary_dim`, after taking out all that a file says about rotation but `rope_theta`.

    transformers rotates the whole head where its `rope_parameters` lack the factor, whatever `rotary_dim` says; such
    a file contradicts itself and is refused.
    """
    rope = dict(config.pop("rope_parameters", None) or {})
    stretched = rope_scaling({k: v for k, v in rope.items() if k not in _ROPE}, source)
    if stretched is not None or config.pop("rope_scaling", None) is not None:
        raise ModelError(f"{source}: rope_scaling is not supported for M3")
    head_dim, given = config.get("head_dim"), config.pop("rotary_dim", None)
    factor = config.pop("partial_rotary_factor", None)
    if rope:
        factor = rope.get("partial_rotary_factor", 1.0)
        config["rope_theta"] = rope.get("rope_theta", config.get("rope_theta"))
    if type(head_dim) is not int or (given is None and factor is None):
        raise ModelError(f"{source}: key {'rotary_dim' if head_dim else 'head_dim'!r} is missing")
    rotary_dim = given if factor is None else int(head_dim * factor)
    if given is not None and given != rotary_dim:
        raise ModelError(
            f"{source}: rotary_dim {given} contradicts partial_rotary_factor {factor} of head_dim {head_dim}"
        )
    return int(rotary_dim)


def _index(config: dict[str, Any], source: str) -> IndexConfig | None:
    """The index branch; None where no layer has one."""
    flat = _take(config, (*_INDEX_HEADS, *_BLOCKS))
    num_layers = config.get("num_hidden_layers", 0)
    freq = _kinds(config.pop("layer_types", None), "layer_types", _LAYER_TYPES, source)
    published = config.pop("sparse_attention_config", None)
    if published is not None:
        flat, freq = _published_index(published, num_layers, source)
    if freq is None or not any(freq):
        return None
    try:
        sparse = build(SparseConfig, _take(flat, _BLOCKS), source)
    except InputError as error:
        raise ModelError(f"{source}: {error}") from error
    for name in _INDEX_HEADS:
        if name not in flat:
            raise ModelError(f"{source}: key {name!r} is missing")
    return IndexConfig(**flat, sparse=sparse, sparse_attention_freq=freq)


def _published_index(published: object, num_layers: int, source: str) -> tuple[dict[str, Any], tuple[int, ...] | None]:
    """The fields of `sparse_attention_config` under our names, and which layers are sparse."""
    where = f"{source}: sparse_attention_config"
    if not isinstance(published, dict):
        raise ModelError(f"{where} must be a JSON object, got {published!r}")
    known = (*_SPARSE_KEYS, *_OTHER_SPARSE_KEYS)
    for key in published:
        if key not in known:
            raise ModelError(f"{where}: unknown key {key!r}{nearest(key, list(known))}")
    if not published.get("use_sparse_attention", True):
        return {}, None
    required = [key for key, name in _SPARSE_KEYS.items() if name not in ("index_local_blocks", "index_init_blocks")]
    for key in (*required, "sparse_attention_freq"):
        if key not in published:
            raise ModelError(f"{where}: key {key!r} is missing")
    if (score := published.get("sparse_score_type", "max")) != "max":
        raise ModelError(f"{where}: sparse_score_type = {score!r} is not supported; supported: 'max'")
    freq = _flags(published["sparse_attention_freq"], "sparse_attention_freq", source)
    no_value = published.get("sparse_disable_index_value", 1)
    no_value = [no_value] * num_layers if isinstance(no_value, int) else no_value
    if [f for f, disabled in zip(freq, no_value, strict=False) if f and not disabled]:
        raise ModelError(f"{where}: sparse_disable_index_value must be 1 on sparse layers; index values are unknown")
    return {name: published[key] for key, name in _SPARSE_KEYS.items() if key in published}, freq


def _moe(config: dict[str, Any], source: str) -> MoEConfig | None:
    """The experts; None where no layer has them."""
    freq = _kinds(config.pop("mlp_layer_types", None), "mlp_layer_types", _MLP_LAYER_TYPES, source)
    if (published := config.pop("moe_layer_freq", None)) is not None:
        freq = _flags(published, "moe_layer_freq", source)
    if freq is None:
        raise ModelError(f"{source}: key 'moe_layer_freq' is missing")
    values = _take(config, _MOE)
    if not any(freq):
        return None
    _rename(values, "intermediate_size", "expert_intermediate_size")
    values.setdefault("shared_intermediate_size", values.get("expert_intermediate_size"))
    return cast(MoEConfig, build(MoEConfig, {**values, "moe_layer_freq": freq}, source))


def _flags(value: object, name: str, source: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(flag) is int for flag in value):
        raise ModelError(f"{source}: {name} must be a list of 0 and 1, got {value!r}")
    return tuple(value)


def _kinds(value: object, name: str, kinds: Mapping[str, int], source: str) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not set(value) <= set(kinds):
        raise ModelError(f"{source}: {name} must be a list of {', '.join(map(repr, kinds))}, got {value!r}")
    return tuple(kinds[kind] for kind in value)


def _take(config: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: config.pop(name) for name in names if name in config}


def _rename(config: dict[str, Any], published: str, ours: str) -> None:
    if published in config:
        config[ours] = config.pop(published)
