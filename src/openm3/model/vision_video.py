"""Videos to a few frames. Letters: T frames, C colours, H and W pixels.

The rule by which frames are chosen is the published one (constant mode of MiniMax's processor, as SGLang has it).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import torch
from torch import Tensor

from openm3.errors import InputError
from openm3.model.vision_config import VisionConfig
from openm3.model.vision_resize import MAX_FRAME_PIXELS, MAX_VIDEO_PIXELS, resize, target_size
from openm3.model.vision_source import MAX_SOURCE_PIXELS, MAX_VIDEO_BYTES, Source, check_pixels, open_source

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MIN_FPS, MAX_FPS = 0.2, 5.0
MAX_FRAMES = 768
# Nine hours of 60 frames a second.
MAX_STORED_FRAMES = 2_000_000
_EPSILON_S = 1e-4


@dataclass(frozen=True, eq=False)
class SampledVideo:
    """What is looked at of a video.

    Attributes:
        frames_TCHW: uint8, RGB, resized.
        seconds: when each frame is shown.
    """

    frames_TCHW: Tensor
    seconds: tuple[float, ...]


def sample_video(source: Source, config: VisionConfig, *, fps: float = 1.0, field: str = "video") -> SampledVideo:
    """Frames of an mp4, mov, mkv, webm or avi file, at most `MAX_FRAMES`, each resized as soon as it is decoded.

    All frames together have at most `MAX_VIDEO_PIXELS` pixels, so a longer video is seen more coarsely, and past
    `MAX_FRAMES` less often. Only the chosen frames, and those that they depend on, are decoded.

    Args:
        source: the file.
        config: the model's.
        fps: frames to look at for each second of the video, from `MIN_FPS` to `MAX_FPS`.
        field: what errors call it.

    Raises:
        InputError: it is of another format, broken, without frames, or beyond a limit.
    """
    if not MIN_FPS <= fps <= MAX_FPS:
        raise InputError(f"{field}.fps", f"must be from {MIN_FPS:g} to {MAX_FPS:g}, got {fps}")
    try:
        import av
    except ImportError as error:
        raise InputError(field, "reading videos needs PyAV: pip install 'openm3[vision]'") from error
    with open_source(source, max_bytes=MAX_VIDEO_BYTES, field=field) as file:
        container_format = _format(file, field)
        try:
            # The format is given, as probing would let a playlist name files and addresses.
            with av.open(file, "r", format=container_format, metadata_errors="ignore") as container:
                return _sample(container, config, fps, field)
        except (av.FFmpegError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(field, f"the video can't be decoded: {reason}") from error


def frame_indices(num_frames: int, stored_fps: float, fps: float, max_frames: int = MAX_FRAMES) -> list[int]:
    """The frames to look at: the first, each at least 1 / fps seconds after the one before, and the last.

    Where those are more than `max_frames`, so many of them, evenly spaced, with the first and the last.
    """
    indices = [0]
    while (index := max(_after(indices[-1], stored_fps, fps), indices[-1] + 1)) < num_frames:
        indices.append(index)
    if (num_frames - 1 - indices[-1]) / stored_fps > _EPSILON_S:
        indices.append(num_frames - 1)
    if len(indices) > max_frames:
        indices = [indices[round(i * (len(indices) - 1) / (max_frames - 1))] for i in range(max_frames)]
    return indices


class _Key(NamedTuple):
    """A key frame: when it is shown, and where it stands in the file."""

    shown: int
    stored: int


def _after(index: int, stored_fps: float, fps: float) -> int:
    return math.ceil((index / stored_fps + 1 / fps - _EPSILON_S) * stored_fps)


def _sample(container: InputContainer, config: VisionConfig, fps: float, field: str) -> SampledVideo:
    if not container.streams.video:
        raise InputError(field, "the file has no video")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise InputError(field, "its codec is not supported")
    check_pixels(stream.codec_context.width, stream.codec_context.height, field)
    stream.codec_context.options = {"max_pixels": str(MAX_SOURCE_PIXELS)}
    times, keys = _scan(container, stream, field)
    stored_fps = float(stream.average_rate or _mean_rate(times, stream.time_base))
    indices = frame_indices(len(times), stored_fps, fps)
    padded = len(indices) + -len(indices) % config.temporal_patch_size
    max_pixels = min(MAX_FRAME_PIXELS, MAX_VIDEO_PIXELS // padded)

    frames: list[Tensor] = []
    size: tuple[int, int] | None = None
    for frame in _decode(container, stream, [times[index] for index in indices], keys):
        check_pixels(frame.width, frame.height, field)
        if size is None:
            size = target_size(
                frame.height, frame.width, multiple=config.token_pixels, max_pixels=max_pixels, field=field
            )
        pixels = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1).contiguous()
        frames.append(resize(pixels, *size))
    if not frames:
        raise InputError(field, "the video has no frames")
    seconds = tuple(index / stored_fps for index in indices)
    return SampledVideo(torch.stack(frames), seconds[: len(frames)])


def _scan(container: InputContainer, stream: VideoStream, field: str) -> tuple[list[int], list[_Key]]:
    """When the frames are shown, in the stream's units, and the key frames, both in order; nothing is decoded."""
    times: list[int] = []
    keys: list[_Key] = []
    for packet in container.demux(stream):
        time = packet.dts if packet.pts is None else packet.pts
        if time is None or packet.is_discard:
            continue
        times.append(time)
        if packet.is_keyframe:
            keys.append(_Key(time, time if packet.dts is None else packet.dts))
        if len(times) > MAX_STORED_FRAMES:
            raise InputError(field, f"more than {MAX_STORED_FRAMES:,} frames; give a shorter video")
    if not times:
        raise InputError(field, "the video has no frames")
    return sorted(times), sorted(keys)


def _mean_rate(times: Sequence[int], unit: Fraction | None) -> float:
    span = (times[-1] - times[0]) * float(unit or 1)
    return (len(times) - 1) / span if span > 0 else 1.0


def _decode(
    container: InputContainer, stream: VideoStream, wanted: Sequence[int], keys: Sequence[_Key]
) -> Iterator[VideoFrame]:
    """The frames shown at the wanted times, which ascend; a jump goes to the key frame before."""
    start = min([0, wanted[0], *(key.stored for key in keys[:1])])
    frames: Iterator[VideoFrame] = iter(())
    position: int | None = None
    for time in wanted:
        before = bisect_right(keys, time, key=lambda key: key.shown)
        key = keys[before - 1] if before else _Key(wanted[0], start)
        if position is None or key.shown > position:
            frames = _from(container, stream, key.stored)
            first = next(frames, None)
            if first is None or _shown(first) > time:  # past it: not every file can be entered where it should
                frames = _from(container, stream, start)
            else:
                frames = chain([first], frames)
        for frame in frames:
            position = _shown(frame)
            if position >= time:
                yield frame
                break


def _from(container: InputContainer, stream: VideoStream, time: int) -> Iterator[VideoFrame]:
    container.seek(time, stream=stream)
    return container.decode(stream)


def _shown(frame: VideoFrame) -> int:
    time = frame.dts if frame.pts is None else frame.pts
    return 0 if time is None else time


_MAGIC: tuple[tuple[int, tuple[bytes, ...], str], ...] = (
    (4, (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"), "mov"),
    (0, (b"\x1a\x45\xdf\xa3",), "matroska"),
    (8, (b"AVI ",), "avi"),
)


def _format(file: BinaryIO, field: str) -> str:
    """The container format by the first bytes."""
    head = file.read(12)
    file.seek(0)
    for start, magics, name in _MAGIC:
        if any(head[start:].startswith(magic) for magic in magics):
            return name
    raise InputError(field, "not an mp4, mov, mkv, webm or avi file")
