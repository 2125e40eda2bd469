"""Pixels cut into patches. Letters: N patches, P values of a patch, T frames, C colours, H and W pixels.

Patches are in the order of time, then of the tokens' rows and columns, then of the rows and columns within a token;
the values of a patch in that of colour, frame, row, column, as the published Conv3d weights have them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from openm3.model.vision_config import Grid, VisionConfig

# CLIP's, for values from 0 to 255.
_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]) * 255
_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]) * 255


@dataclass(frozen=True, eq=False)
class Patches:
    """An image or a video, ready for the vision tower.

    Attributes:
        pixels_NP: uint8.
        grids: (time, height, width) in patches for each segment; attention stays within a segment.
        tokens_per_merge: patches that become one token.
    """

    pixels_NP: Tensor
    grids: tuple[Grid, ...]
    tokens_per_merge: int

    @property
    def num_tokens(self) -> int:
        """Tokens that stand for it in a prompt."""
        return len(self.pixels_NP) // self.tokens_per_merge

    @cached_property
    def digest(self) -> bytes:
        """Differs for other pixels or grids: with it a prompt's tokens say what the model saw."""
        state = hashlib.blake2b(repr(self.grids).encode(), digest_size=16)
        state.update(self.pixels_NP.numpy().data)
        return state.digest()


def patchify(frames_TCHW: Tensor, config: VisionConfig) -> Patches:
    """Cuts frames into patches.

    Args:
        frames_TCHW: uint8; H and W are multiples of `config.token_pixels`. An image is one frame. Where a patch in
            time lacks frames, the last one is repeated.
        config: the model's.
    """
    time, patch, merge = config.temporal_patch_size, config.patch_size, config.spatial_merge_size
    frames, channels, height, width = frames_TCHW.shape
    assert not height % config.token_pixels and not width % config.token_pixels, "frames were not resized"
    if lacking := -frames % time:
        frames_TCHW = torch.cat([frames_TCHW, frames_TCHW[-1:].expand(lacking, -1, -1, -1)])
    t, h, w = (frames + lacking) // time, height // patch, width // patch
    split = frames_TCHW.reshape(t, time, channels, h // merge, merge, patch, w // merge, merge, patch)
    pixels_NP = split.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(t * h * w, config.patch_dim)
    length = config.vision_segment_max_frames
    grids = tuple((min(length, t - start), h, w) for start in range(0, t, length))
    return Patches(pixels_NP, grids, merge**2)


def normalize(pixels_NP: Tensor) -> Tensor:
    """The values that the tower reads, fp32, from uint8."""
    pixels = pixels_NP.float().unflatten(1, (len(_MEAN), -1))
    mean, std = (values.to(pixels.device)[:, None] for values in (_MEAN, _STD))
    return ((pixels - mean) / std).flatten(1)
