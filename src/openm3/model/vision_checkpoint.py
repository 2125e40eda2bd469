"""Which checkpoints have a vision part, and its weights in their files."""

from __future__ import annotations

import json

import torch
from safetensors import safe_open
from torch import Tensor

from openm3.errors import ModelError
from openm3.model.vision import Vision, is_vision_name, load_vision
from openm3.model.vision_config import VisionConfig
from openm3.model.weights import Checkpoint, SafetensorsCheckpoint


def vision_of(checkpoint: Checkpoint, dtype: torch.dtype) -> Vision | None:
    """The vision part of a checkpoint, with weights of this dtype; None where its files hold no tensor of one.

    Raises:
        ModelError: its tensors are not those of the vision part that config.json describes, or are quantised.
    """
    if not isinstance(checkpoint, SafetensorsCheckpoint) or not any(map(is_vision_name, checkpoint.stored)):
        return None
    path = checkpoint.path / "config.json"
    config = VisionConfig.from_hf(json.loads(path.read_text(encoding="utf-8")), str(path))

    def read(name: str) -> Tensor:
        file = checkpoint.stored[name].file
        with safe_open(file, framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
        if not tensor.is_floating_point() or tensor.dtype.itemsize == 1:
            raise ModelError(
                f"{file}: tensor {name} has dtype {tensor.dtype}; vision weights of 16 or 32 bits are read"
            )
        return tensor

    try:
        return load_vision(config, checkpoint.stored, read, dtype=dtype).eval()
    except ModelError as error:
        raise ModelError(f"{checkpoint.path}: {error}") from error
