"""The size at which an image is looked at, and the resizing.

Source: `smart_resize` and the limits of the published image and video processors (in transformers:
`image_processing_minimax_m3_vl.py`, `video_processing_minimax_m3_vl.py`).
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from openm3.errors import InputError

MAX_ASPECT = 200
MIN_PIXELS = 3136
# For an image by the detail that is asked for: 576, 1280 and 16,384 tokens at most.
MAX_IMAGE_PIXELS = {"auto": 451_584, "low": 451_584, "default": 1_003_520, "high": 12_845_056}
MAX_FRAME_PIXELS = 602_112
# Of all frames of a video together.
MAX_VIDEO_PIXELS = int(64_000 * 28 * 28 * 0.9)


def target_size(
    height: int, width: int, *, multiple: int, max_pixels: int, min_pixels: int = MIN_PIXELS, field: str = "image"
) -> tuple[int, int]:
    """Height and width in multiples of `multiple`, of about the same aspect, with `min_pixels` to `max_pixels` pixels.

    Raises:
        InputError: one side is more than `MAX_ASPECT` times the other.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise InputError(field, f"{width} x {height} pixels: one side is more than {MAX_ASPECT} times the other")
    new_height, new_width = (round(side / multiple) * multiple for side in (height, width))
    if new_height * new_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        new_height, new_width = (
            max(multiple, math.floor(side / shrink / multiple) * multiple) for side in (height, width)
        )
    elif new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        new_height, new_width = (math.ceil(side * grow / multiple) * multiple for side in (height, width))
    return new_height, new_width


def resize(pixels_CHW: Tensor, height: int, width: int) -> Tensor:
    """Pixels (uint8, CPU) at another size: bicubic, with antialiasing, rounded to uint8, as published."""
    if pixels_CHW.shape[1:] == (height, width):
        return pixels_CHW
    return F.interpolate(pixels_CHW[None], size=(height, width), mode="bicubic", antialias=True)[0]
