"""Image files to pixels. Letters: C colours, H and W pixels."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from openm3.errors import InputError
from openm3.model.vision_source import MAX_IMAGE_BYTES, Source, check_pixels, open_source

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


def read_image(source: Source, field: str = "image") -> Tensor:
    """The pixels (uint8, [C, H, W], RGB) of a file in one of `FORMATS`; of an animation, its first picture.

    It is turned as its EXIF says; where it is transparent, its colours are taken as they are stored.

    Raises:
        InputError: it is of another format, broken, or beyond a limit of `vision_source`.
    """
    Image, ImageOps = _pillow(field)
    with open_source(source, max_bytes=MAX_IMAGE_BYTES, field=field) as stream:
        try:
            with Image.open(stream, formats=FORMATS) as image:
                width, height = image.size
                check_pixels(width, height, field)
                rgb = ImageOps.exif_transpose(image).convert("RGB")
        except InputError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise InputError(field, f"too many pixels: {error}") from error
        except Exception as error:  # the library raises whatever a broken file leads to
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(field, f"not a readable image ({', '.join(FORMATS).lower()}): {reason}") from error
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def _pillow(field: str) -> tuple[ModuleType, ModuleType]:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise InputError(field, "reading images needs Pillow: pip install 'openm3[vision]'") from error
    return Image, ImageOps
