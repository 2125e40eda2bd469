from __future__ import annotations

import base64
import struct
import sys
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.m3_processors import pixels
from openm3.errors import InputError
from openm3.model import vision_source
from openm3.model.vision_image import read_image

PIXELS = pixels(3, 24, 40)


def encoded(format: str, image: Image.Image | None = None, **options: Any) -> bytes:
    out = BytesIO()
    image = image or Image.fromarray(PIXELS.permute(1, 2, 0).numpy())
    image.save(out, format, **options)
    return out.getvalue()


def png(width: int, height: int) -> bytes:
    """A valid PNG of nothing but zeros, made without its pixels ever being in memory."""
    line = zlib.compressobj(9)
    data = b"".join(line.compress(bytes(width // 8 + 1)) for _ in range(height)) + line.flush()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats(format: str, options: dict[str, Any], tmp_path: Path) -> None:
    data = encoded(format, **options)
    (tmp_path / "image").write_bytes(data)
    url = f"data:image/{format.lower()};base64,{base64.b64encode(data).decode()}"
    for source in (data, tmp_path / "image", url):
        image = read_image(source)
        assert image.is_contiguous()
        assert torch.equal(image, PIXELS)


def test_jpeg_is_near() -> None:
    smooth = Image.fromarray(np.linspace(0, 255, 24 * 40).reshape(24, 40).astype(np.uint8)).convert("RGB")
    image = read_image(encoded("JPEG", smooth, quality=95))
    assert (image.float() - torch.from_numpy(np.array(smooth)).permute(2, 0, 1)).abs().mean() < 3


def test_of_an_animation_the_first_picture() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    image = read_image(encoded("GIF", frames[0], save_all=True, append_images=frames[1:]))
    assert image[:, 0, 0].tolist() == [255, 0, 0]


def test_other_colour_modes() -> None:
    for mode in ("L", "1", "P", "LA", "RGBA"):
        assert read_image(encoded("PNG", Image.new(mode, (6, 4)))).shape == (3, 4, 6)
    assert read_image(encoded("JPEG", Image.new("CMYK", (6, 4)))).shape == (3, 4, 6)


def test_it_is_turned_as_its_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    turned = read_image(encoded("PNG", exif=exif))
    assert torch.equal(turned, PIXELS.rot90(-1, (1, 2)))


WHOLE = encoded("PNG")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "image: it is empty"),
        (b"hello", r"image: not a readable image \(png, jpeg, webp, gif\): cannot identify"),
        (WHOLE[: len(WHOLE) // 2], "not a readable image .*truncated"),
        (WHOLE[:30], "not a readable image"),
        (encoded("BMP"), "not a readable image"),
        (encoded("JPEG")[:200], "not a readable image"),
        (bytes(10_000_001), "10,000,001 bytes; at most 10,000,000 are read"),
        (f"data:image/png;base64,{'A' * 13_400_000}", r"10,050,000 bytes; at most 10,000,000"),
        ("data:image/png;base64,@@@", "the data URL is not base64"),
        ("data:image/png,abc", "give a data URL in base64"),
        ("https://example.com/cat.png", "addresses are not fetched"),
        ("/etc/passwd", "addresses are not fetched"),
        (Path("/nowhere/cat.png"), "/nowhere/cat.png is not a file"),
        (Path("/dev/zero"), "/dev/zero is not a file"),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else None,
)
def test_what_is_refused(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_image(source)


def test_decompression_bombs() -> None:
    """A quarter of a megabyte that would be a gigabyte of pixels, and one just above the limit."""
    bomb = png(20_000, 20_000)
    assert len(bomb) < 300_000
    with pytest.raises(InputError, match="too many pixels|at most 67,108,864 are read"):
        read_image(bomb)
    with pytest.raises(InputError, match="8200 x 8200 pixels; at most 67,108,864 are read"):
        read_image(png(8200, 8200))


def test_broken_bytes_are_an_error_or_an_image() -> None:
    generator = np.random.default_rng(0)
    for format in ("PNG", "JPEG", "WEBP", "GIF"):
        data = encoded(format)
        for _ in range(60):
            broken = bytearray(data)
            for place in generator.integers(0, len(data), 3):
                broken[place] = generator.integers(256)
            try:
                assert read_image(bytes(broken)).shape[0] == 3
            except InputError as error:
                assert error.field == "image"


def test_without_pillow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InputError, match=r"pip install 'openm3\[vision\]'"):
        read_image(WHOLE)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "secret.png").write_bytes(WHOLE)
    monkeypatch.setattr(vision_source.Path, "open", refuse)
    with pytest.raises(InputError, match=r"secret\.png can't be read: Permission denied"):
        read_image(tmp_path / "secret.png")
