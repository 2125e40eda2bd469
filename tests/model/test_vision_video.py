from __future__ import annotations

import base64
import sys
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.m3_vision import PUBLISHED
from helpers.videos import audio, level, video
from openm3.errors import InputError
from openm3.model import vision_video
from openm3.model.vision_config import VisionConfig
from openm3.model.vision_resize import MAX_VIDEO_PIXELS
from openm3.model.vision_video import MAX_FRAMES, SampledVideo, frame_indices, sample_video

CONFIG = VisionConfig.from_hf(PUBLISHED)


@pytest.mark.parametrize(
    ("num_frames", "stored_fps", "fps", "expected"),
    [
        (1, 30.0, 1.0, [0]),
        (2, 30.0, 1.0, [0, 1]),  # the last frame is always looked at
        (61, 30.0, 1.0, [0, 30, 60]),
        (75, 30.0, 1.0, [0, 30, 60, 74]),
        (5, 1.0, 1.0, [0, 1, 2, 3, 4]),
        (5, 0.5, 1.0, [0, 1, 2, 3, 4]),  # never a frame twice
        (9, 4.0, 2.0, [0, 2, 4, 6, 8]),
        (50, 24000 / 1001, 1.0, [0, 24, 48, 49]),
        (10, 10.0, 5.0, [0, 2, 4, 6, 8, 9]),  # 0.4 + 0.2 is a little more than 0.6
    ],
)
def test_the_published_rule(num_frames: int, stored_fps: float, fps: float, expected: list[int]) -> None:
    assert frame_indices(num_frames, stored_fps, fps) == expected


@given(st.integers(1, 5000), st.floats(0.5, 120), st.floats(0.2, 5), st.integers(2, 900))
def test_the_rule_keeps_first_last_order_and_number(
    num_frames: int, stored_fps: float, fps: float, max_frames: int
) -> None:
    indices = frame_indices(num_frames, stored_fps, fps, max_frames)
    assert indices[0] == 0
    assert indices[-1] == num_frames - 1
    assert all(a < b for a, b in pairwise(indices))
    assert len(indices) <= max_frames


def levels(sampled: SampledVideo) -> list[int]:
    return [round(frame.float().mean().item()) for frame in sampled.frames_TCHW]


def check(sampled: SampledVideo, indices: list[int], fps: float) -> None:
    assert sampled.seconds == pytest.approx([index / fps for index in indices])
    assert levels(sampled) == pytest.approx([level(index) for index in indices], abs=9)


@pytest.mark.parametrize("container", ["mp4", "mov", "matroska", "webm", "avi"])
@pytest.mark.parametrize("b_frames", [0, 2])
def test_formats(container: str, b_frames: int, tmp_path: Path) -> None:
    codec = {"webm": "libvpx-vp9", "mov": "mjpeg"}.get(container, "mpeg4")
    if codec == "mjpeg":  # a camera's: every frame is a key frame
        data = video(30, container=container, codec="mpeg4", gop=1)
    else:
        data = video(30, container=container, codec=codec, b_frames=b_frames)
    (tmp_path / "video").write_bytes(data)
    expected = [0, 4, 8, 12, 16, 20, 24, 28, 29]
    for source in (data, tmp_path / "video", "data:video/mp4;base64," + base64.b64encode(data).decode()):
        check(sample_video(source, CONFIG), expected, 4)


def test_frames_are_exact_after_jumps_between_key_frames() -> None:
    data = video(300, fps=10, container="matroska", codec="ffv1", gop=7)
    sampled = sample_video(data, CONFIG, fps=0.2)
    assert levels(sampled) == [level(index) for index in [0, 50, 100, 150, 200, 250, 299]]
    check(sample_video(video(300, fps=10, gop=9, b_frames=2), CONFIG, fps=0.3), [*range(0, 300, 34), 299], 10)


def test_two_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most `MAX_FRAMES` frames, evenly over the whole, and no more pixels than the budget."""
    sampled = sample_video(video(7200, fps=1, width=32, height=32), CONFIG)
    assert len(sampled.seconds) == MAX_FRAMES
    assert (sampled.seconds[0], sampled.seconds[-1]) == (0, 7199)
    assert all(8 < b - a < 11 for a, b in pairwise(sampled.seconds))
    # The budget counts at the published sizes as well, here with fewer frames.
    monkeypatch.setattr(vision_video, "MAX_VIDEO_PIXELS", MAX_VIDEO_PIXELS // 100)
    frames = sample_video(video(60, fps=1, width=640, height=360), CONFIG).frames_TCHW
    assert frames[:, 0].numel() <= MAX_VIDEO_PIXELS // 100


def test_only_what_is_needed_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision_video, "MAX_FRAMES", 768)
    decoded = 0
    original = vision_video._decode

    def counting(*args: Any) -> Any:
        nonlocal decoded
        for frame in original(*args):
            decoded += 1
            yield frame

    monkeypatch.setattr(vision_video, "_decode", counting)
    sampled = sample_video(video(400, fps=20), CONFIG, fps=0.2)
    assert decoded == len(sampled.seconds) == 5


def test_a_jump_that_goes_too_far_is_taken_back() -> None:
    """An index may be wrong: the frames are then found from the beginning."""
    with av.open(BytesIO(video(40, codec="ffv1", container="matroska", gop=4)), "r") as container:
        stream = container.streams.video[0]
        wrong = [vision_video._Key(shown=0, stored=9000)]
        frames = list(vision_video._decode(container, stream, [2000, 5000], wrong))
    assert [frame.pts for frame in frames] == [2000, 5000]


def test_one_frame() -> None:
    sampled = sample_video(video(1), CONFIG)
    assert sampled.seconds == (0,)
    assert sampled.frames_TCHW.shape == (1, 3, 56, 56)


WHOLE = video(12)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "video: it is empty"),
        (b"hello world, this is text", "not an mp4, mov, mkv, webm or avi file"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "not an mp4, mov, mkv, webm or avi file"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not an mp4, mov, mkv, webm or avi file"),
        (WHOLE[: len(WHOLE) // 2], "the video can't be decoded|has no video"),
        (WHOLE[:4] + b"ftyp" + bytes(100), "the video can't be decoded|has no video"),
        (audio(), "the file has no video"),
        (video(2, width=1000, height=4), "more than 200 times the other"),
        (Path("/nowhere.mp4"), "/nowhere.mp4 is not a file"),
    ],
    ids=range(9),
)
def test_what_is_refused(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sample_video(source, CONFIG)


@pytest.mark.parametrize("fps", [0.0, -1.0, 0.1, 6.0, float("nan")])
def test_fps_has_limits(fps: float) -> None:
    with pytest.raises(InputError, match=r"video\.fps: must be from 0\.2 to 5"):
        sample_video(WHOLE, CONFIG, fps=fps)


def test_frames_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openm3.model.vision_source.MAX_SOURCE_PIXELS", 1000)
    with pytest.raises(InputError, match="64 x 48 pixels; at most 1,000 are read"):
        sample_video(WHOLE, CONFIG)


def test_too_many_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision_video, "MAX_STORED_FRAMES", 11)
    with pytest.raises(InputError, match="more than 11 frames; give a shorter video"):
        sample_video(WHOLE, CONFIG)


def test_broken_bytes_are_an_error_or_a_video() -> None:
    generator = np.random.default_rng(0)
    for container in ("mp4", "matroska", "avi"):
        data = video(8, container=container)
        for _ in range(40):
            broken = bytearray(data)
            for place in generator.integers(0, len(data), 4):
                broken[place] = generator.integers(256)
            try:
                assert len(sample_video(bytes(broken), CONFIG).frames_TCHW) > 0
            except InputError as error:
                assert error.field.startswith("video")


def test_without_pyav_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"pip install 'openm3\[vision\]'"):
        sample_video(WHOLE, CONFIG)
