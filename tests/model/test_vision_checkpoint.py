from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.seeing_m3 import write_seeing_m3
from helpers.tiny_m3 import write_tiny_m3
from openm3.errors import ModelError
from openm3.model.vision_checkpoint import vision_of
from openm3.model.weights import open_checkpoint


def test_where_there_are_tensors_there_is_a_vision_part(tmp_path: Path, tiny_model: Path) -> None:
    seeing = write_seeing_m3(tmp_path / "seeing")
    vision = vision_of(open_checkpoint(seeing), torch.float32)
    assert vision is not None
    stored = load_file(seeing / "vision.safetensors")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in vision.state_dict().items())
    assert vision_of(open_checkpoint(tiny_model), torch.float32) is None
    blind = write_tiny_m3(tmp_path / "blind")
    assert "vision_config" in json.loads((blind / "config.json").read_text())
    assert vision_of(open_checkpoint(blind), torch.float32) is None


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (None, "tensor 'patch_merge_mlp.linear_1.bias' is missing"),
        (torch.zeros(36, dtype=torch.int8), r"tensor patch_merge_mlp.linear_1.bias has dtype torch.int8"),
        (torch.zeros(36).to(torch.float8_e4m3fn), "has dtype torch.float8_e4m3fn; vision weights of 16 or 32 bits"),
        (torch.zeros(3), r"has shape \(3,\); \(36,\) expected"),
    ],
)
def test_what_does_not_load(tmp_path: Path, tensor: torch.Tensor | None, message: str) -> None:
    folder = write_seeing_m3(tmp_path / "m3")
    tensors = load_file(folder / "vision.safetensors")
    name = "patch_merge_mlp.linear_1.bias"
    tensors = {**tensors, name: tensor} if tensor is not None else {n: t for n, t in tensors.items() if n != name}
    save_file(tensors, folder / "vision.safetensors")
    with pytest.raises(ModelError, match=message) as error:
        vision_of(open_checkpoint(folder), torch.float32)
    assert str(folder) in str(error.value)


def test_tensors_without_a_configuration(tmp_path: Path) -> None:
    folder = write_seeing_m3(tmp_path / "m3")
    raw = json.loads((folder / "config.json").read_text())
    del raw["vision_config"]
    (folder / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ModelError, match="vision_config is missing"):
        vision_of(open_checkpoint(folder), torch.float32)
