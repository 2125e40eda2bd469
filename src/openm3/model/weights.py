"""Checkpoints in the Hugging Face layout, and the strict loader that fills a decoder from any checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from openm3.config import ModelConfig, SparseConfig, nearest
from openm3.errors import ModelError
from openm3.model.decoder import Decoder, empty_decoder
from openm3.model.gguf import GGUFCheckpoint

_INDEX = "model.safetensors.index.json"


class SafetensorsCheckpoint:
    """A folder with `config.json` and safetensors files, one or sharded.

    Attributes:
        path: the folder.
        config: the model's configuration.

    Raises:
        ModelError: a file is missing or cut short, or the configuration is not supported.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = ModelConfig.from_folder(path)
        self._file_of: dict[str, Path] = {}
        for file in self._files():
            try:
                with safe_open(file, framework="pt") as opened:
                    self._file_of.update(dict.fromkeys(opened.keys(), file))
            except (OSError, SafetensorError) as error:
                raise ModelError(f"{file}: not a whole safetensors file ({error})") from error

    @property
    def names(self) -> list[str]:
        """Names of the tensors in the files, without those that hold nothing of their own."""
        tied_copy = {"lm_head.weight"} if self.config.tie_word_embeddings else set()
        return [name for name in self._file_of if name not in tied_copy and not name.endswith("rotary_emb.inv_freq")]

    def read(self, name: str) -> Tensor:
        """One tensor in the dtype of its file."""
        with safe_open(self._file_of[name], framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
        if not tensor.is_floating_point():
            raise ModelError(f"{self._file_of[name]}: tensor {name} has dtype {tensor.dtype}, expected floating point")
        return tensor

    def _files(self) -> list[Path]:
        index = self.path / _INDEX
        if index.exists():
            try:
                files = sorted({self.path / name for name in json.loads(index.read_text())["weight_map"].values()})
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise ModelError(f"{index}: can't be read ({error})") from error
            for file in files:
                if file.parent != self.path or not file.is_file():
                    raise ModelError(f"{index}: names {file.name}, which is not in {self.path}")
            return files
        file = self.path / "model.safetensors"
        if not file.is_file():
            raise ModelError(f"{self.path}: has neither model.safetensors nor {_INDEX}")
        return [file]


Checkpoint = GGUFCheckpoint | SafetensorsCheckpoint


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at a path: a folder in the Hugging Face layout, or a GGUF file."""
    if not path.exists():
        raise ModelError(f"{path}: no such model file or folder")
    return SafetensorsCheckpoint(path) if path.is_dir() else GGUFCheckpoint(path)


def load_decoder(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    *,
    sparse: SparseConfig | None = None,
    backend: str = "torch",
    on_progress: Callable[[int, int], None] | None = None,
) -> Decoder:
    """A decoder with the checkpoint's weights, not yet packed.

    Args:
        checkpoint: an open checkpoint.
        dtype: of the matrices; norms stay fp32.
        sparse, backend: see `Decoder`.
        on_progress: called with tensors read and tensors in all.

    Raises:
        ModelError: a tensor is missing, extra or of the wrong shape; the message names it.
    """
    decoder = empty_decoder(checkpoint.config, sparse, backend)
    expected = dict(decoder.named_parameters())  # a tied head is not named twice
    parameter_of = {_parameter_name(name): name for name in checkpoint.names}
    for parameter, name in parameter_of.items():
        if parameter not in expected:
            raise ModelError(f"{checkpoint.path}: unexpected tensor {name!r}{nearest(parameter, list(expected))}")
    for parameter in expected:
        if parameter not in parameter_of:
            raise ModelError(f"{checkpoint.path}: tensor {parameter!r} is missing")

    def read(parameter: str) -> tuple[str, Tensor]:
        tensor = checkpoint.read(parameter_of[parameter])
        tensor = tensor.to(torch.float32 if tensor.ndim == 1 else dtype)
        if tensor.shape != expected[parameter].shape:
            raise ModelError(
                f"{checkpoint.path}: tensor {parameter_of[parameter]} has shape {list(tensor.shape)}, "
                f"expected {list(expected[parameter].shape)}"
            )
        return parameter, tensor

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for done, (parameter, tensor) in enumerate(pool.map(read, expected), start=1):
            owner, _, attribute = parameter.rpartition(".")
            setattr(decoder.get_submodule(owner), attribute, nn.Parameter(tensor, requires_grad=False))
            if on_progress is not None:
                on_progress(done, len(expected))
    if checkpoint.config.tie_word_embeddings:
        decoder.lm_head.weight = decoder.embed_tokens.weight
    return decoder.eval()


def _parameter_name(name: str) -> str:
    return name.removeprefix("model.")
