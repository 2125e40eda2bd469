"""What the published config.json of M3 says about vision."""

from __future__ import annotations

from typing import Any

COMPRESSION = {
    "image_token_compression_method": "patch_merge",
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
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
