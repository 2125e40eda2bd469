"""Rotary positions in time, height and width. Letters: N patches, H heads, D head size, E angles of one patch."""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.model.vision_config import Grid, VisionConfig


def angles(grid: Grid, config: VisionConfig, device: torch.device | None = None) -> Tensor:
    """Angles (fp32, [N, E]) of a segment's patches in their order: a third each for time, height and width.

    A third of a head's channels, rounded down to an even number, turn by each coordinate: of 80 channels 3 times 26,
    which leaves 2 that don't turn. Time starts at 0 in every segment.
    """
    channels = 2 * (config.head_dim // 3 // 2)
    inv_freq = config.rope_theta ** -(torch.arange(0, channels, 2, device=device, dtype=torch.float32) / channels)
    return (_coordinates(grid, config.spatial_merge_size, device)[..., None] * inv_freq).flatten(1)


def rotate(x_NHD: Tensor, angles_NE: Tensor) -> Tensor:
    """Turns channels i and i + E by the angles, for i below E; channels from 2 E on pass."""
    size = angles_NE.shape[-1]
    cos, sin = angles_NE.cos()[:, None], angles_NE.sin()[:, None]
    first, second, rest = x_NHD[..., :size], x_NHD[..., size : 2 * size], x_NHD[..., 2 * size :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def _coordinates(grid: Grid, merge: int, device: torch.device | None) -> Tensor:
    """Time, row and column ([N, 3]) of each patch, in the order of `vision_patches`."""
    t, h, w = grid
    place = torch.cartesian_prod(*(torch.arange(size, device=device) for size in grid)).view(t, h, w, 3)
    split = place.view(t, h // merge, merge, w // merge, merge, 3)
    return split.transpose(2, 3).reshape(-1, 3)
