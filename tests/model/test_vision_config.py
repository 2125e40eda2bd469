from __future__ import annotations

from typing import Any

import pytest
from transformers import MiniMaxM3VLConfig

from openm3.errors import ModelError
from openm3.model.vision_config import VisionConfig

COMPRESSION = {
    "image_token_compression_method": "patch_merge",
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
# What the published config.json says about vision.
PUBLISHED: dict[str, Any] = {
    "architectures": ["MiniMaxM3SparseForConditionalGeneration"],
    "text_config": {"hidden_size": 6144},
    "vision_config": {
        "hidden_size": 1280,
        "num_attention_heads": 16,
        "num_hidden_layers": 32,
        "intermediate_size": 5120,
        "patch_size": 14,
        "image_size": 2016,
        "projection_dim": 6144,
        "position_embedding_type": "rope",
        "rope_mode": "3d",
        "rope_theta": 10000.0,
        "attention_dropout": 0.0,
        "hidden_act": "gelu",
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-05,
        "model_type": "clip_vision_model",
        "num_channels": 3,
        "vocab_size": 32000,
        "img_token_compression_config": COMPRESSION,
        "vision_segment_max_frames": 4,
    },
    "img_token_compression_config": COMPRESSION,
    "image_grid_pinpoints": "[(336, 336), (336, 672)]",
    "image_seq_length": 576,
    "image_token_index": 200025,
    "video_token_index": 200026,
    "multimodal_projector_bias": True,
    "process_image_mode": "dynamic_res",
    "projector_hidden_act": "gelu",
    "projector_hidden_size": 6144,
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
}


def test_the_published_file() -> None:
    config = VisionConfig.from_hf(PUBLISHED)
    assert (config.head_dim, config.patch_dim, config.token_pixels) == (80, 1176, 28)
    assert (config.projection_dim, config.image_token_index, config.video_token_index) == (6144, 200025, 200026)


def test_transformers_file_says_the_same() -> None:
    config = MiniMaxM3VLConfig()
    assert VisionConfig.from_hf(config.to_dict()) == VisionConfig.from_hf(PUBLISHED)
    assert VisionConfig.from_hf(config.to_diff_dict()) == VisionConfig.from_hf(PUBLISHED)


@pytest.mark.parametrize(
    ("top", "vision", "message"),
    [
        ({}, {"patch_sise": 14}, "unknown key 'patch_sise'; did you mean 'patch_size'"),
        ({}, {"hidden_act": "quick_gelu"}, "vision_config.hidden_act = 'quick_gelu' is not supported; .*'gelu'"),
        ({}, {"rope_mode": "2d"}, "rope_mode = '2d' is not supported"),
        ({"process_image_mode": "anyres"}, {}, "process_image_mode = 'anyres' is not supported"),
        ({"img_token_compression_config": {**COMPRESSION, "spatial_merge_size": 4}}, {}, "spatial_merge_size is 4, but 2"),
        ({"img_token_compression_config": [2]}, {}, "img_token_compression_config must be an object"),
        ({"text_config": {"hidden_size": 96}}, {}, "projection_dim 6144 isn't the text's size, 96"),
        ({"vision_config": None}, None, "vision_config is missing; this model can't see"),
        ({"projector_hidden_size": None}, {}, "'projector_hidden_size' is missing"),
        ({}, {"patch_size": "14"}, "patch_size must be a positive int, got '14'"),
        ({}, {"num_hidden_layers": 0}, "num_hidden_layers must be a positive int"),
        ({}, {"num_attention_heads": 7}, "hidden_size 1280 must give each of the 7"),
    ],
)
def test_what_is_refused(top: dict[str, Any], vision: dict[str, Any] | None, message: str) -> None:
    raw = {**PUBLISHED, **top}
    if vision:
        raw["vision_config"] = {**PUBLISHED["vision_config"], **vision}
    with pytest.raises(ModelError, match=message):
        VisionConfig.from_hf(raw, "config.json")
