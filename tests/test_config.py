"""Published configurations: what is understood, and that nothing else is."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from transformers import MiniMaxM3VLConfig

from helpers.tiny import TINY
from helpers.tiny_m3 import tiny_m3_config
from openm3.config import EngineConfig, IndexConfig, ModelConfig, SparseConfig
from openm3.config.presets import PRESETS, preset
from openm3.errors import InputError, ModelError


def changed(path: str, value: Any) -> dict[str, Any]:
    """The tiny configuration with one key set, or taken out where the value is None."""
    raw = copy.deepcopy(tiny_m3_config())
    *parents, key = path.split(".")
    part = raw
    for parent in parents:
        part = part[parent]
    if value is None:
        part.pop(key)
    else:
        part[key] = value
    return raw


def test_the_published_text_network() -> None:
    config = ModelConfig.from_hf(preset("m3"))
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (6144, 60, 200064)
    assert (config.intermediate_size, config.rotary_dim, config.head_dim) == (12288, 64, 128)
    assert config.use_gemma_norm and config.use_qk_norm and config.rope_theta == 5e6
    assert config.moe is not None and config.index is not None and config.swiglu is not None
    assert [config.has_experts(i) for i in (0, 2, 3, 59)] == [False, False, True, True]
    assert [config.has_index(i) for i in (0, 2, 3, 59)] == [False, False, True, True]
    assert (config.moe.num_local_experts, config.moe.num_experts_per_tok) == (128, 4)
    assert (config.moe.expert_intermediate_size, config.moe.shared_intermediate_size) == (3072, 3072)
    assert config.index.sparse == SparseConfig(index_block_size=128, index_topk_blocks=16)
    assert (config.index.index_n_heads, config.index.index_head_dim) == (4, 128)
    assert (config.swiglu.swiglu_alpha, config.swiglu.swiglu_beta, config.swiglu.swiglu_limit) == (1.702, 1.0, 7.0)


def test_the_published_file_as_it_is() -> None:
    """All keys of the MXFP8 checkpoint's `config.json`; its text network is the preset."""
    text = preset("m3")["text_config"]
    text = {key: value for key, value in text.items() if key not in ("model_type", "swiglu_beta")}
    merge = {"image_token_compression_method": "patch_merge", "spatial_merge_size": 2, "temporal_patch_size": 2}
    published = {
        "architectures": ["MiniMaxM3SparseForConditionalGeneration"],
        "auto_map": {"AutoConfig": "configuration_minimax_m3_vl.MiniMaxM3VLConfig"},
        "model_type": "minimax_m3_vl",
        "text_config": {
            **text,
            "dtype": "bfloat16",
            "rope_theta": 5000000,
            "num_mtp_modules": 1,
            "architectures": ["MiniMaxM3SparseForCausalLM"],
        },
        "vision_config": {"model_type": "clip_vision_model", "img_token_compression_config": merge},
        "img_token_compression_config": merge,
        "image_grid_pinpoints": "[(336, 336), (336, 672)]",
        "image_seq_length": 576,
        "image_token_index": 200025,
        "video_token_index": 200026,
        "multimodal_projector_bias": True,
        "num_reward_heads": 0,
        "process_image_mode": "dynamic_res",
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.52.4",
        "projector_hidden_size": 6144,
        "quantization_config": {
            "quant_method": "mxfp8",
            "activation_scheme": "dynamic",
            "weight_block_size": [1, 32],
            "ignored_layers": ["lm_head", "model.embed_tokens", "vision_tower"],
        },
    }
    assert ModelConfig.from_hf(published) == ModelConfig.from_hf(preset("m3"))


def test_all_layers_sparse_with_an_initial_block() -> None:
    raw = preset("m3.1")
    raw["text_config"]["sparse_attention_config"]["sparse_init_block"] = 1
    raw["text_config"]["num_experts_per_tok"] = 8
    config = ModelConfig.from_hf(raw)
    assert all(config.has_index(i) for i in range(60))
    assert config.index is not None and config.index.sparse.index_init_blocks == 1


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_read(name: str) -> None:
    config = ModelConfig.from_hf(preset(name))
    assert config.index is not None and config.moe is not None


def test_what_transformers_writes_is_the_same_model() -> None:
    raw = tiny_m3_config()
    theirs = MiniMaxM3VLConfig(**copy.deepcopy(raw)).to_dict()
    assert "sparse_attention_config" not in theirs["text_config"]
    assert ModelConfig.from_hf(theirs) == ModelConfig.from_hf(raw)
    assert ModelConfig.from_hf(theirs["text_config"]) == ModelConfig.from_hf(raw)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("text_config.hidden_sise", 3, "unknown key 'hidden_sise'; did you mean 'hidden_size'"),
        ("image_token_indx", 3, "unknown key 'image_token_indx'; did you mean 'image_token_index'"),
        ("text_config.sparse_attention_config.sparse_topk", 3, "unknown key 'sparse_topk'; did you mean"),
        ("text_config.hidden_size", None, "key 'hidden_size' is missing"),
        ("text_config.swiglu_limit", None, "key 'swiglu_limit' is missing"),
        ("text_config.moe_layer_freq", None, "key 'moe_layer_freq' is missing"),
        ("text_config.rotary_dim", 8, "rotary_dim 8 contradicts partial_rotary_factor 0.5 of head_dim 32"),
        ("text_config.rope_parameters", {"rope_theta": 1e4}, "rotary_dim 16 contradicts partial_rotary_factor 1.0"),
        ("text_config.rope_parameters", {"rope_type": "yarn"}, "rope type 'yarn' is not supported"),
        ("text_config.hidden_act", "gelu", "hidden_act = 'gelu' is not supported; supported: 'swigluoai'"),
        ("text_config.scoring_func", "softmax", "scoring_func = 'softmax' is not supported"),
        ("text_config.n_shared_experts", 2, "n_shared_experts = 2 is not supported"),
        ("text_config.attention_output_gate", True, "attention_output_gate = True is not supported"),
        ("text_config.use_gemma_norm", False, "use_gemma_norm = False is not supported"),
        ("text_config.moe_layer_freq", [0, 1], "moe_layer_freq must have a 0 or 1 for each of the 3 layers"),
        ("text_config.moe_layer_freq", 1, "moe_layer_freq must be a list of 0 and 1"),
        ("text_config.num_experts_per_tok", 9, "num_experts_per_tok 9 is more than num_local_experts 8"),
        ("text_config.sparse_attention_config.sparse_attention_freq", None, "'sparse_attention_freq' is missing"),
        ("text_config.sparse_attention_config.sparse_attention_freq", [0, 1, 1, 1], "sparse_attention_freq must have"),
        ("text_config.sparse_attention_config.sparse_num_index_heads", 4, "index_n_heads 4 must equal"),
        ("text_config.sparse_attention_config.sparse_index_dim", 8, "index_head_dim 8 is less than the 16 elements"),
        ("text_config.sparse_attention_config.sparse_score_type", "mean", "sparse_score_type = 'mean'"),
        ("text_config.sparse_attention_config.sparse_block_size", 8, "index_block_size: must be from 16 to 256"),
        ("text_config.sparse_attention_config.sparse_disable_index_value", [0, 1, 0], "sparse_disable_index_value"),
        ("text_config", [], "text_config must be a JSON object"),
        ("quantization_config", {"quant_method": "modelopt", "quant_algo": "NVFP4"}, "NVFP4 weights are not supported"),
        (
            "quantization_config",
            {"quant_method": "fp8", "weight_block_size": [128, 128]},
            "'fp8' and weight_block_size",
        ),
        ("model_type", "minimax_m4", "model_type 'minimax_m4' is not supported; supported: llama"),
    ],
)
def test_configurations_that_are_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message.replace("[", r"\[")):
        ModelConfig.from_hf(changed(path, value))


def test_mxfp8_is_accepted() -> None:
    quantization = {"quant_method": "mxfp8", "weight_block_size": [1, 32], "ignored_layers": ["lm_head"]}
    assert ModelConfig.from_hf(changed("quantization_config", quantization)) == ModelConfig.from_hf(tiny_m3_config())


def test_without_a_sparse_layer_there_is_no_index_branch() -> None:
    for path, value in (
        ("text_config.sparse_attention_config", None),
        ("text_config.sparse_attention_config.sparse_attention_freq", [0, 0, 0]),
        ("text_config.sparse_attention_config.use_sparse_attention", False),
    ):
        assert ModelConfig.from_hf(changed(path, value)).index is None


def test_an_engine_leaves_the_blocks_to_the_model() -> None:
    m3 = ModelConfig.from_hf(tiny_m3_config())
    resolved = EngineConfig().for_model(m3)
    assert m3.index is not None
    assert (resolved.attention, resolved.sparse) == ("sparse", m3.index.sparse)
    assert EngineConfig(attention="sparse", sparse=m3.index.sparse).for_model(m3) == resolved
    with pytest.raises(InputError, match="chooses blocks by its index branch"):
        EngineConfig(attention="dense").for_model(m3)
    with pytest.raises(InputError, match="was trained with"):
        EngineConfig(sparse=SparseConfig(index_topk_blocks=4)).for_model(m3)


@pytest.mark.parametrize("field", ["attention", "weights", "dtype"])
def test_an_unknown_choice_is_named(field: str) -> None:
    with pytest.raises(InputError, match=f"{field}: must be"):
        EngineConfig(**{field: "other"})


def with_branch(**changes: Any) -> ModelConfig:
    """A dense model with an index branch in its first layer of two; its heads are 6 queries and 2 keys of 16."""
    branch: dict[str, Any] = {"index_n_heads": 2, "index_head_dim": 16, "sparse_attention_freq": (1, 0)}
    index = IndexConfig(**{"sparse": SparseConfig(), **branch, **changes})
    return replace(ModelConfig.from_hf(TINY), index=index)


def test_layers_choose_by_a_branch_by_own_keys_or_not_at_all() -> None:
    mixed = with_branch(own_key_layers=(1,), index_n_heads=6, index_n_key_heads=2, index_rotary_dim=0)
    assert [mixed.has_index(i) for i in (0, 1)] == [True, False]
    assert [mixed.scans_own_keys(i) for i in (0, 1)] == [False, True]
    assert [with_branch().scans_own_keys(i) for i in (0, 1)] == [False, False]
    assert [ModelConfig.from_hf(TINY).scans_own_keys(i) for i in (0, 1)] == [True, True]
    assert [c.index_rotary_dim for c in (mixed, with_branch(), with_branch(index_rotary_dim=4))] == [0, 16, 4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index_n_heads": 3}, "index_n_heads 3 must be a multiple of num_key_value_heads 2, at most"),
        ({"index_n_heads": 8}, "index_n_heads 8 must be a multiple of num_key_value_heads 2, at most"),
        ({"index_n_heads": 0}, "index_n_heads must be positive, got 0"),
        ({"index_n_key_heads": 3}, "index_n_key_heads 3 must be 1 or num_key_value_heads 2"),
        ({"index_head_dim": 8}, "index_head_dim 8 is less than the 16 elements that are rotated"),
        ({"index_rotary_dim": 6}, "index_rotary_dim 6 must be even and divide the 16 elements"),
        ({"index_rotary_dim": -2}, "index_rotary_dim -2 must be even and divide"),
        ({"own_key_layers": (1, 1)}, r"own_key_layers must be layers of the model in ascending order, got \[1, 1\]"),
        ({"own_key_layers": (2,)}, r"own_key_layers must be layers of the model in ascending order, got \[2\]"),
        ({"own_key_layers": (0,)}, r"own_key_layers \[0\] have an index branch by sparse_attention_freq"),
        ({"sparse_attention_freq": (1,)}, "sparse_attention_freq must have a 0 or 1 for each of the 2 layers"),
    ],
)
def test_branches_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=f"config: {message}"):
        with_branch(**changes)
