from __future__ import annotations

from typing import Any

import pytest
from transformers import MiniMaxM3VLConfig

from helpers.m3_vision import COMPRESSION, PUBLISHED
from openm3.errors import ModelError
from openm3.model.vision_config import VisionConfig


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
        (
            {"img_token_compression_config": {**COMPRESSION, "spatial_merge_size": 4}},
            {},
            "spatial_merge_size is 4, but 2",
        ),
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
