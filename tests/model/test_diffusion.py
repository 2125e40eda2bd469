from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from helpers.images import write_image_pipeline
from openm3.errors import InputError, ModelError
from openm3.model.diffusion import Drawing, ImagePipeline


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_image_pipeline(tmp_path / "scribble")
    return tmp_path / "scribble"


def test_weights_are_safetensors_and_code_is_not_run(folder: Path, tmp_path: Path) -> None:
    pickled = shutil.copytree(folder, tmp_path / "pickled")
    weights = pickled / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    torch.save({}, weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match=r"pickled can't be loaded.*safetensors"):
        ImagePipeline(pickled)
    own = shutil.copytree(folder, tmp_path / "own")
    (own / "model_index.json").write_text('{"_class_name": ["mine", "Pipeline"]}')
    ran = tmp_path / "ran"
    (own / "mine.py").write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\nclass Pipeline: pass\n")
    with pytest.raises(ModelError, match=r"own can't be loaded"):
        ImagePipeline(own)
    assert not ran.exists()
    with pytest.raises(ModelError, match=r"has no model_index\.json; give a folder"):
        ImagePipeline(tmp_path)


def test_size_and_steps_are_the_models_where_none_are_asked_for(folder: Path) -> None:
    pipeline = ImagePipeline(folder)
    assert pipeline.complete(Drawing(prompt="a")) == Drawing(prompt="a", size=(32, 32), steps=50)
    with pytest.raises(InputError, match="steps: must be at most 1000"):
        pipeline.complete(Drawing(prompt="a", steps=1001))
    pipeline.own_size = None
    with pytest.raises(InputError, match="size: this model has no size of its own"):
        pipeline.complete(Drawing(prompt="a"))
