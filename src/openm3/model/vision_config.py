"""The configuration of M3's eyes: `vision_config` of the published `config.json` and what stands beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from openm3.config import nearest
from openm3.errors import ModelError

Grid = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The vision tower and its projector, with the published field names.

    Args:
        hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, layer_norm_eps, rope_theta: the tower's.
        num_channels, temporal_patch_size, patch_size: a patch is this many colours, frames, and pixels a side.
        spatial_merge_size: so many patches a side become one token.
        vision_segment_max_frames: attention goes over at most so many patches of time.
        projector_hidden_size: of the projector's two MLPs.
        projection_dim: of a token; the text network's hidden size.
        image_token_index, video_token_index: ids of the tokens that stand for one token of an image, of a video.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    projector_hidden_size: int
    projection_dim: int
    image_token_index: int
    video_token_index: int
    num_channels: int = 3
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    vision_segment_max_frames: int = 4
    layer_norm_eps: float = 1e-5
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            kinds = (int,) if field.type == "int" else (int, float)
            if type(value) not in kinds or value <= 0:
                raise ModelError(f"vision_config: {field.name} must be a positive {field.type}, got {value!r}")
        if self.hidden_size % self.num_attention_heads or self.head_dim < 6:
            raise ModelError(
                f"vision_config: hidden_size {self.hidden_size} must give each of the {self.num_attention_heads} "
                f"attention heads the same number of channels, at least 6"
            )

    @property
    def head_dim(self) -> int:
        """Channels of an attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def patch_dim(self) -> int:
        """Values of a patch."""
        return self.num_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def token_pixels(self) -> int:
        """Pixels a side of what one token sees; sides of resized images are multiples of it."""
        return self.patch_size * self.spatial_merge_size

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], source: str = "config.json") -> VisionConfig:
        """Reads a published `config.json`, or one that transformers wrote, as a whole.

        Of the top level only the keys in `TOP_LEVEL_KEYS` are looked at; the text network answers for the others.

        Raises:
            ModelError: there is no `vision_config`, a key in it is unknown or missing, or a value is not supported.
        """
        vision = raw.get("vision_config")
        if not isinstance(vision, Mapping):
            raise ModelError(f"{source}: vision_config is missing; this model can't see")
        config = {key: value for key, value in vision.items() if key not in _WITHOUT_EFFECT}
        beside = {key: raw[key] for key in TOP_LEVEL_KEYS if key in raw and key not in _WITHOUT_EFFECT}
        for name, values in (("vision_config.", config), ("", beside)):
            _open_groups(values, f"{source}: {name}")
            for key, only in _ONLY.items():
                if key in values and (value := values.pop(key)) not in only:
                    raise ModelError(f"{source}: {name}{key} = {value!r} is not supported; supported: {only[0]!r}")
        beside.pop("merged_hidden_size", None)  # follows from the others
        for old, new in (("image_token_id", "image_token_index"), ("video_token_id", "video_token_index")):
            if old in beside:
                beside[new] = beside.pop(old)
        text_config = raw.get("text_config") or {}
        text_size = text_config.get("hidden_size") if isinstance(text_config, Mapping) else None
        if config.setdefault("projection_dim", text_size) != (text_size or config["projection_dim"]):
            raise ModelError(f"{source}: projection_dim {config['projection_dim']} isn't the text's size, {text_size}")
        for key in beside.keys() & config.keys():
            if beside[key] != config[key]:
                raise ModelError(f"{source}: {key} is {beside[key]!r}, but {config[key]!r} in vision_config")
        config |= beside
        known = [field.name for field in fields(cls)]
        for key in config:
            if key not in known:
                raise ModelError(f"{source}: vision_config: unknown key {key!r}{nearest(key, known)}")
        for key in known[: known.index("num_channels")]:
            if config.get(key) is None:
                raise ModelError(f"{source}: vision_config: key {key!r} is missing")
        return cls(**config)


# Keys of the top level that describe the vision part.
TOP_LEVEL_KEYS = (
    "image_grid_pinpoints",
    "image_seq_length",
    "image_token_id",
    "image_token_index",
    "img_token_compression_config",
    "merged_hidden_size",
    "multimodal_projector_bias",
    "process_image_mode",
    "projector_hidden_act",
    "projector_hidden_size",
    "video_token_id",
    "video_token_index",
    "vision_feature_layer",
    "vision_feature_select_strategy",
)

# With images of any size (process_image_mode) neither a size nor a number of tokens is fixed; the rest is training's.
_WITHOUT_EFFECT = (
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "chunk_size_feed_forward",
    "dtype",
    "id2label",
    "image_grid_pinpoints",
    "image_seq_length",
    "image_size",
    "initializer_factor",
    "initializer_range",
    "is_encoder_decoder",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "vocab_size",
)

# Keys whose other values would be another network; the first is M3's.
_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu",),
    "image_token_compression_method": ("patch_merge",),
    "model_type": ("clip_vision_model", "minimax_m3_vl_vision"),
    "multimodal_projector_bias": (True,),
    "position_embedding_type": ("rope",),
    "process_image_mode": ("dynamic_res",),
    "projector_hidden_act": ("gelu",),
    "rope_mode": ("3d",),
    "rope_type": ("axial",),
    "vision_feature_layer": (-1,),
    "vision_feature_select_strategy": ("full",),
}


def _open_groups(config: dict[str, Any], where: str) -> None:
    """Brings the keys of the groups that the two kinds of file have up to the others'."""
    for group in ("img_token_compression_config", "rope_parameters"):
        values = config.pop(group, None) or {}
        if not isinstance(values, Mapping):
            raise ModelError(f"{where}{group} must be an object")
        for key, value in values.items():
            if config.setdefault(key, value) != value:
                raise ModelError(f"{where}{key} is both {config[key]!r} and {value!r}")
