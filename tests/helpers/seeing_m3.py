"""A random M3 checkpoint with a vision part and a tokenizer that has the tokens of images and videos."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from helpers.tiny_m3 import loud_weights, tiny_m3_config, write_tiny_m3
from openm3.model.vision import Vision
from openm3.model.vision_config import VisionConfig
from openm3.text import m3
from openm3.text.byte_level import SMALLEST_VOCAB, byte_tokenizer, write_byte_tokenizer


def seeing_m3_config() -> dict[str, Any]:
    """`tiny_m3_config` with a tower of heads of 20 channels, whose tokens see 16 pixels a side."""
    token_id = byte_tokenizer(SMALLEST_VOCAB).token_to_id
    ends = {"bos_token_id": token_id(m3.TEXT_BEGIN), "eos_token_id": token_id(m3.END)}
    return tiny_m3_config(vocab_size=SMALLEST_VOCAB, **ends) | {
        "vision_config": {
            "hidden_size": 40,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 8,
        },
        "projector_hidden_size": 36,
        "image_token_index": token_id(m3.IMAGE),
        "video_token_index": token_id(m3.VIDEO),
    }


def write_seeing_m3(folder: Path, *, seed: int = 0) -> Path:
    """Writes config, shards with published names and a byte-level tokenizer; the same seed gives the same model."""
    raw = seeing_m3_config()
    write_tiny_m3(folder, raw, seed=seed)
    with torch.device("meta"):
        vision = Vision(VisionConfig.from_hf(raw))
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: loud_weights(name, tuple(tensor.shape), generator, 0.02) + (tensor.ndim == 1 and "norm" in name)
        for name, tensor in vision.state_dict().items()
    }
    save_file(tensors, folder / "vision.safetensors")
    index_path = folder / "model.safetensors.index.json"
    index = json.loads(index_path.read_text())
    index["weight_map"] |= dict.fromkeys(tensors, "vision.safetensors")
    index_path.write_text(json.dumps(index))
    write_byte_tokenizer(folder, SMALLEST_VOCAB)
    return folder


def png(width: int = 64, height: int = 64, *, seed: int = 0) -> bytes:
    """A picture of noise."""
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def data_url(content: bytes, kind: str = "image/png") -> str:
    """As a client of the API sends it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def user(*parts: str | dict[str, Any]) -> list[dict[str, Any]]:
    """A conversation of one message, of texts and other parts."""
    return [{"role": "user", "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]}]


def image(content: bytes) -> dict[str, Any]:
    """The part of a message that is an image."""
    return {"type": "image_url", "image_url": {"url": data_url(content)}}


def film(content: bytes) -> dict[str, Any]:
    """The part of a message that is a video."""
    return {"type": "video_url", "video_url": {"url": data_url(content, "video/mp4")}}
