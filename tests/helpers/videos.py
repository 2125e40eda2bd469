"""Small video files, written by PyAV."""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO

import av
import numpy as np


def video(
    num_frames: int,
    *,
    fps: int = 4,
    container: str = "mp4",
    codec: str = "mpeg4",
    width: int = 64,
    height: int = 48,
    gop: int = 12,
    b_frames: int = 0,
) -> bytes:
    """A file whose frame i is grey with level `level(i)`; a key frame comes at least every `gop` frames."""
    out = BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(codec, rate=fps)
        stream.width, stream.height = width, height
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.time_base = Fraction(1, fps)
        for i in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), level(i), np.uint8), format="rgb24")
            frame.pts = i
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def level(index: int) -> int:
    """The grey level of a frame; neighbours differ by much more than what compression loses."""
    return 20 + index * 50 % 211


def audio() -> bytes:
    """A file with sound and no video."""
    out = BytesIO()
    with av.open(out, "w", format="matroska") as file:
        stream = file.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()
