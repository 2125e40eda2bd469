"""Sizes and patches against what transformers' processors made of the same pixels (`helpers/m3_processors.py`)."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from helpers.m3_processors import IMAGES, RECORD, VIDEOS, fingerprint, pixels
from helpers.m3_vision import PUBLISHED
from openm3.errors import InputError
from openm3.model.vision_config import VisionConfig
from openm3.model.vision_patches import Patches, normalize, patchify
from openm3.model.vision_resize import MAX_ASPECT, MIN_PIXELS, resize, target_size

CONFIG = VisionConfig.from_hf(PUBLISHED)


@pytest.fixture(scope="module")
def record() -> Any:
    return json.loads(RECORD.read_text())


def test_sizes_are_the_published_ones(record: Any) -> None:
    assert len(record["sizes"]) > 200
    for height, width, limit, *size in record["sizes"]:
        assert target_size(height, width, multiple=28, max_pixels=limit) == tuple(size)


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(MIN_PIXELS * 4, 1 << 24))
def test_sizes_keep_the_rules(height: int, width: int, limit: int) -> None:
    if max(height, width) > MAX_ASPECT * min(height, width):
        with pytest.raises(InputError, match="image: .* one side is more than 200 times the other"):
            target_size(height, width, multiple=28, max_pixels=limit)
        return
    size = target_size(height, width, multiple=28, max_pixels=limit)
    assert all(side > 0 and side % 28 == 0 for side in size)
    # A side is at least one token, so a very flat image may have more.
    assert MIN_PIXELS <= size[0] * size[1] <= max(limit, 28 * max(size))


def same(patches: Patches, recorded: Any) -> None:
    assert [list(grid) for grid in patches.grids] == recorded["grids"]
    # A value that is 1e-4 off moves the sum by less; one grey level of one pixel moves it by 0.01.
    expected = torch.tensor(recorded["fingerprint"], dtype=torch.float64)
    torch.testing.assert_close(fingerprint(normalize(patches.pixels_NP)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", range(len(IMAGES)))
def test_images_are_cut_as_published(record: Any, case: int) -> None:
    height, width, least, most = IMAGES[case]
    size = target_size(height, width, multiple=28, min_pixels=least, max_pixels=most)
    same(patchify(resize(pixels(3, height, width), *size)[None], CONFIG), record["images"][case])


@pytest.mark.parametrize("case", range(len(VIDEOS)))
def test_videos_are_cut_as_published(record: Any, case: int) -> None:
    frames, height, width, least, most = VIDEOS[case]
    size = target_size(height, width, multiple=28, min_pixels=least, max_pixels=most)
    resized = torch.stack([resize(frame, *size) for frame in pixels(frames, 3, height, width)])
    same(patchify(resized, CONFIG), record["videos"][case])


def test_a_patch_is_what_a_convolution_sees() -> None:
    """Each patch by the weights is the convolution's output at its place; the fours of a token lie together."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 3, 2, 14, 14, generator=generator)
    frames = torch.stack([pixels(3, 56, 84), pixels(3, 56, 84).flip(2)])
    patches = patchify(frames, CONFIG)
    ours = patches.pixels_NP.float() @ weight.flatten(1).T
    theirs = F.conv3d(frames.float().transpose(0, 1)[None], weight, stride=(2, 14, 14))[0]  # [5, 1, 4, 6]
    by_token = theirs[:, 0].reshape(5, 2, 2, 3, 2).permute(1, 3, 2, 4, 0).reshape(24, 5)
    torch.testing.assert_close(ours, by_token, rtol=1e-4, atol=1.0)
    assert patches.num_tokens == 6


def test_what_was_seen_has_its_own_digest() -> None:
    frames = pixels(4, 3, 56, 56)
    patches = patchify(frames, CONFIG)
    again, other = patchify(frames.clone(), CONFIG), patchify(frames.flip(0), CONFIG)
    split = Patches(patches.pixels_NP, ((1, 4, 4), (1, 4, 4)), 4)
    assert patches.digest == again.digest
    assert len({patches.digest, other.digest, split.digest}) == 3
