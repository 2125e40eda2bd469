"""Where images and videos come from: bytes, files and data URLs, within limits. Nothing is fetched from a network."""

from __future__ import annotations

import base64
import binascii
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from openm3.errors import InputError

# A string is a data URL, never a path: what a client of a server sends can't name the server's files.
Source = bytes | Path | str

# The published API's: images, and videos that were uploaded as files.
MAX_IMAGE_BYTES = 10_000_000
MAX_VIDEO_BYTES = 512_000_000
# Of an image or a frame as it is stored, before it is resized: 200 MB in memory.
MAX_SOURCE_PIXELS = 1 << 26


def open_source(source: Source, *, max_bytes: int, field: str) -> BinaryIO:
    """The content, open for reading; the caller closes it.

    Raises:
        InputError: it is empty or larger than `max_bytes`, no file, or a string that is no data URL in base64.
    """
    stream: BinaryIO
    if isinstance(source, Path):
        try:
            if not source.is_file():
                raise InputError(field, f"{source} is not a file")
            size, stream = source.stat().st_size, source.open("rb")
        except OSError as error:
            raise InputError(field, f"{source} can't be read: {error.strerror}") from error
    else:
        data = source if isinstance(source, bytes) else _decode(source, max_bytes, field)
        size, stream = len(data), BytesIO(data)
    if not 0 < size <= max_bytes:
        stream.close()
        _refuse(size, max_bytes, field)
    return stream


def check_pixels(width: int, height: int, field: str) -> None:
    """Refuses sizes that would decompress to more than `MAX_SOURCE_PIXELS`, or to nothing."""
    if not 0 < width * height <= MAX_SOURCE_PIXELS:
        raise InputError(field, f"{width} x {height} pixels; at most {MAX_SOURCE_PIXELS:,} are read")


def _decode(url: str, max_bytes: int, field: str) -> bytes:
    head, comma, data = url.partition(",")
    if not head.startswith("data:") or not head.endswith(";base64") or not comma:
        raise InputError(field, "give a data URL in base64 (data:image/png;base64,...); addresses are not fetched")
    if len(data) > 4 * (max_bytes // 3 + 1):
        _refuse(len(data) * 3 // 4, max_bytes, field)
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(field, f"the data URL is not base64: {error}") from error


def _refuse(size: int, max_bytes: int, field: str) -> None:
    raise InputError(field, "it is empty" if size == 0 else f"{size:,} bytes; at most {max_bytes:,} are read")
