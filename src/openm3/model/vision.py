"""M3's eyes: from patches to the embeddings that stand in a prompt for an image or a video.

Letters: N patches of a segment, P values of a patch, T tokens, C hidden size of the text network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openm3.config import nearest
from openm3.errors import ModelError
from openm3.model.vision_config import Grid, VisionConfig
from openm3.model.vision_patches import Patches, normalize
from openm3.model.vision_tower import VisionTower, linear


class Vision(nn.Module):
    """Tower, projector and merger. Parameter names are the published checkpoint's.

    vision = Vision(config)
    embeddings_TC = vision.embed(patches)  # for the positions of its tokens, in their order
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        merged = config.projection_dim * config.spatial_merge_size**2
        self.vision_tower = nn.ModuleDict({"vision_model": VisionTower(config)})
        self.multi_modal_projector = _mlp(config.hidden_size, config)
        self.patch_merge_mlp = _mlp(merged, config)

    def embed(self, patches: Patches) -> Tensor:
        """Embeddings (fp32, [T, C]) of an image or a video, on the device of the weights.

        One segment after the other, so memory is that of the largest segment, however long the video is.
        """
        device = self.multi_modal_projector["linear_1"].weight.device
        pixels = patches.pixels_NP.split([t * h * w for t, h, w in patches.grids])
        segments = zip(pixels, patches.grids, strict=True)
        return torch.cat([self(normalize(pixels_NP.to(device)), grid) for pixels_NP, grid in segments])

    def forward(self, x_NP: Tensor, grid: Grid) -> Tensor:
        """Embeddings (fp32, [T, C]) of one segment's normalised patches: each projected, then merged by fours."""
        features = self.vision_tower["vision_model"](x_NP, grid)
        projected = _run(self.multi_modal_projector, features)
        merged = projected.reshape(len(projected) // self.config.spatial_merge_size**2, -1)
        return _run(self.patch_merge_mlp, merged).float()


def load_vision(
    config: VisionConfig, names: Collection[str], read: Callable[[str], Tensor], *, dtype: torch.dtype = torch.bfloat16
) -> Vision:
    """The vision part of a checkpoint, with published names or those of transformers.

    Args:
        config: the checkpoint's.
        names: of its tensors; those of the text network are passed over.
        read: a tensor by its name.
        dtype: of the weights here.

    Raises:
        ModelError: a tensor is missing, unknown or of another shape; the message names it.
    """
    with torch.device("meta"):
        vision = Vision(config)
    expected = vision.state_dict()
    theirs = {published_name(name): name for name in names if is_vision_name(name)}
    for name in theirs:
        if name not in expected:
            raise ModelError(f"tensor {theirs[name]!r} is not one of the vision part{nearest(name, list(expected))}")
    tensors = {}
    for name, wanted in expected.items():
        if name not in theirs:
            raise ModelError(f"tensor {name!r} is missing{nearest(name, list(theirs))}")
        tensor = read(theirs[name])
        if tensor.shape != wanted.shape:
            raise ModelError(f"tensor {theirs[name]!r} has shape {tuple(tensor.shape)}; {tuple(wanted.shape)} expected")
        tensors[name] = tensor.to(dtype)
    vision.load_state_dict(tensors, assign=True)
    return vision.requires_grad_(False)


def is_vision_name(name: str) -> bool:
    """Whether a tensor of a checkpoint belongs to the vision part."""
    return name.removeprefix("model.").startswith(("vision_tower.", "multi_modal_projector.", "patch_merge_mlp."))


# transformers' beginnings of names -> published ones; the rest of a name is the same.
_RENAMED = {
    "model.vision_tower.embeddings.proj.": "vision_tower.vision_model.embeddings.patch_embedding.",
    "model.vision_tower.layers.": "vision_tower.vision_model.encoder.layers.",
    "model.vision_tower.pre_layrnorm.": "vision_tower.vision_model.pre_layrnorm.",
    "model.multi_modal_projector.merge_linear_": "patch_merge_mlp.linear_",
    "model.multi_modal_projector.linear_": "multi_modal_projector.linear_",
}


def published_name(name: str) -> str:
    """The published name of a vision tensor that transformers names otherwise."""
    for theirs, published in _RENAMED.items():
        if name.startswith(theirs):
            return published + name.removeprefix(theirs)
    return name


def _mlp(inputs: int, config: VisionConfig) -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "linear_1": nn.Linear(inputs, config.projector_hidden_size),
            "linear_2": nn.Linear(config.projector_hidden_size, config.projection_dim),
        }
    )


def _run(mlp: nn.ModuleDict, x: Tensor) -> Tensor:
    return linear(cast(nn.Linear, mlp["linear_2"]), F.gelu(linear(cast(nn.Linear, mlp["linear_1"]), x)))
