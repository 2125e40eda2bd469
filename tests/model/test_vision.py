"""The vision part against transformers' on the same random weights, and what it refuses to load."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MiniMaxM3VLConfig
from transformers.models.minimax_m3_vl.modeling_minimax_m3_vl import (
    MiniMaxM3VLMultiModalProjector,
    MiniMaxM3VLVisionModel,
)

from openm3.errors import ModelError
from openm3.model.vision import Vision, is_vision_name, load_vision, published_name
from openm3.model.vision_config import Grid, VisionConfig
from openm3.model.vision_patches import Patches, normalize

# Heads of 20 channels: 3 times 6 turn, 2 pass, as 3 times 26 of 80 do in the published model.
HEAD, HEADS = 20, 2


def reference_config(**changes: Any) -> MiniMaxM3VLConfig:
    vision = {
        "hidden_size": HEAD * HEADS,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "patch_size": 4,
    } | changes
    return MiniMaxM3VLConfig(vision_config=vision, text_config={"hidden_size": 24}, projector_hidden_size=36)


class Reference(torch.nn.Module):
    """What transformers' model has of vision, under the names of its checkpoints."""

    def __init__(self, config: MiniMaxM3VLConfig) -> None:
        super().__init__()
        self.model = torch.nn.ModuleDict(
            {
                "vision_tower": MiniMaxM3VLVisionModel(config.vision_config),
                "multi_modal_projector": MiniMaxM3VLMultiModalProjector(config),
            }
        )
        generator = torch.Generator().manual_seed(1)
        for parameter in self.parameters():
            noise = 0.2 * torch.randn(parameter.shape, generator=generator)
            parameter.data = noise + 1 if parameter.ndim == 1 else noise

    def forward(self, values_NP: Tensor, grids: list[Grid]) -> Tensor:
        features = self.model["vision_tower"](values_NP, torch.tensor(grids)).last_hidden_state[0]
        return self.model["multi_modal_projector"](features)


def load(reference: Reference, dtype: torch.dtype = torch.float32, **changes: Any) -> Vision:
    tensors = reference.state_dict()
    config = VisionConfig.from_hf(reference_config(**changes).to_dict())
    return load_vision(config, tensors.keys(), tensors.__getitem__, dtype=dtype)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(reference_config()).eval()


@pytest.fixture(scope="module")
def vision(reference: Reference) -> Vision:
    return load(reference)


def patches(config: VisionConfig, grids: list[Grid], seed: int = 0) -> Patches:
    count = sum(t * h * w for t, h, w in grids)
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, config.patch_dim), dtype=torch.uint8, generator=generator)
    return Patches(pixels, tuple(grids), config.spatial_merge_size**2)


GRIDS: dict[str, list[Grid]] = {
    "one token": [(1, 2, 2)],
    "an image": [(1, 6, 4)],
    "a clip": [(4, 4, 6)],
    "a video of segments": [(4, 2, 4), (4, 2, 4), (1, 2, 4)],
}


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS.keys())
@torch.inference_mode()
def test_equals_transformers(reference: Reference, vision: Vision, grids: list[Grid]) -> None:
    given = patches(vision.config, grids)
    embeddings = vision.embed(given)
    assert embeddings.shape == (given.num_tokens, 24)
    torch.testing.assert_close(embeddings, reference(normalize(given.pixels_NP), grids), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_equals_transformers_with_the_published_head() -> None:
    shape = {"hidden_size": 160, "num_attention_heads": 2, "patch_size": 14, "num_hidden_layers": 1}
    reference = Reference(reference_config(**shape)).eval()
    vision = load(reference, **shape)
    given = patches(vision.config, [(2, 4, 4)])
    assert (vision.config.head_dim, vision.config.patch_dim) == (80, 1176)
    theirs = reference(normalize(given.pixels_NP), [(2, 4, 4)])
    torch.testing.assert_close(vision.embed(given), theirs, rtol=1e-5, atol=1e-4)


@torch.inference_mode()
def test_bf16_is_near(reference: Reference, vision: Vision) -> None:
    given = patches(vision.config, [(1, 4, 4)])
    exact, rounded = vision.embed(given), load(reference, torch.bfloat16).embed(given)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().max() < 0.05 * exact.abs().max()


@torch.inference_mode()
def test_segments_do_not_see_each_other(vision: Vision) -> None:
    one, other = patches(vision.config, [(1, 2, 2)], seed=1), patches(vision.config, [(1, 4, 2)], seed=2)
    both = Patches(torch.cat([one.pixels_NP, other.pixels_NP]), (*one.grids, *other.grids), 4)
    apart = torch.cat([vision.embed(one), vision.embed(other)])
    torch.testing.assert_close(vision.embed(both), apart, rtol=0, atol=0)


@torch.inference_mode()
def test_positions_in_time_height_and_width_matter(vision: Vision) -> None:
    """The same patches on another grid are seen otherwise, and so are two patches that change places."""
    given = patches(vision.config, [(2, 2, 4)])
    seen = vision.embed(given)
    for grid in [(4, 2, 2), (1, 4, 4), (1, 2, 8), (2, 4, 2)]:
        assert not torch.allclose(vision.embed(Patches(given.pixels_NP, (grid,), 4)), seen, atol=1e-3)
    # The fours of a token change places: neither the tower without positions nor the merger would notice.
    swapped = given.pixels_NP.view(4, 4, -1)[[1, 0, 2, 3]].flatten(0, 1)
    assert not torch.allclose(vision.embed(Patches(swapped, given.grids, 4)), seen[[1, 0, 2, 3]], atol=1e-3)


def test_names_are_the_published_ones(vision: Vision) -> None:
    names = vision.state_dict().keys()
    assert "vision_tower.vision_model.embeddings.patch_embedding.weight" in names
    assert "vision_tower.vision_model.pre_layrnorm.bias" in names
    assert "vision_tower.vision_model.encoder.layers.1.self_attn.out_proj.bias" in names
    assert "vision_tower.vision_model.encoder.layers.1.mlp.fc2.weight" in names
    assert "multi_modal_projector.linear_2.bias" in names
    assert "patch_merge_mlp.linear_1.weight" in names
    assert all(is_vision_name(name) and published_name(name) == name for name in names)
    assert not is_vision_name("language_model.model.norm.weight")


def test_published_names_load_too(vision: Vision) -> None:
    tensors = {**vision.state_dict(), "language_model.model.norm.weight": torch.zeros(1)}
    again = load_vision(vision.config, tensors.keys(), tensors.__getitem__)
    assert again.patch_merge_mlp["linear_1"].weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_merge_mlp.linear_1.bias": None}, "'patch_merge_mlp.linear_1.bias' is missing"),
        ({"vision_tower.extra.weight": torch.zeros(1)}, "'vision_tower.extra.weight' is not one of the vision part"),
        ({"patch_merge_mlp.linear_1.bias": torch.zeros(3)}, r"has shape \(3,\); \(36,\) expected"),
    ],
)
def test_what_does_not_load(vision: Vision, change: dict[str, Tensor | None], message: str) -> None:
    changed = {**vision.state_dict(), **change}
    tensors = {name: tensor for name, tensor in changed.items() if tensor is not None}
    with pytest.raises(ModelError, match=message):
        load_vision(vision.config, tensors.keys(), tensors.__getitem__)
