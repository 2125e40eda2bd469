"""What a trainable decoder's parameters are filled with, and how they become a model's folder."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openm3.config import ModelConfig
from openm3.errors import ModelError, StoreError
from openm3.model.create import write_weights
from openm3.model.decoder import empty_decoder
from openm3.model.identity import identity_of
from openm3.model.sidecar import tensor_shapes, write_sidecar
from openm3.model.weights import Checkpoint, SafetensorsCheckpoint, problems
from openm3.train.model import TrainableDecoder
from openm3.train.sharding import part_like

_STACKED = re.compile(r"(.*\.experts)\.(w[123])")
_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(w[123])\.weight")

# What a folder has beside weights and configuration, and commands read.
_TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
)


def fill_random(decoder: TrainableDecoder, seed: int, std: float) -> None:
    """Matrices normal with this deviation, norms that scale by 1, biases of 0; the same in any number of processes."""
    generator = torch.Generator().manual_seed(seed)
    ones = not decoder.config.use_gemma_norm

    def weights(name: str, shape: torch.Size) -> Tensor:
        if len(shape) == 1:
            return torch.ones(shape) if ones and name.endswith("norm.weight") else torch.zeros(shape)
        return torch.randn(shape, generator=generator).mul_(std)

    _fill(decoder, weights)


def fill_from(decoder: TrainableDecoder, checkpoint: Checkpoint) -> None:
    """The weights of a checkpoint; an index branch that it lacks stays as it is.

    Raises:
        ModelError: a tensor is missing, extra or of the wrong shape; the message names it.
    """
    expected = {name: p.shape for name, p in empty_decoder(checkpoint.config).named_parameters()}
    for problem in problems(checkpoint, expected):
        raise ModelError(f"{checkpoint.path}: {problem}")

    def weights(name: str, shape: torch.Size) -> Tensor:
        if (match := _STACKED.fullmatch(name)) is None:
            return checkpoint.read(name)
        return torch.stack([checkpoint.read(f"{match[1]}.{e}.{match[2]}.weight") for e in range(shape[0])])

    lacks = set(tensor_shapes(decoder.config)) - set(tensor_shapes(checkpoint.config))
    _fill(decoder, weights, without=lacks)


@torch.no_grad()
def _fill(
    decoder: TrainableDecoder, weights: Callable[[str, torch.Size], Tensor], without: Collection[str] = ()
) -> None:
    for name, tensor in decoder.state_dict().items():
        if name not in without:
            tensor.copy_(part_like(weights(name, tensor.shape), tensor))


def write_model(
    folder: Path,
    raw: Mapping[str, Any],
    config: ModelConfig,
    parameters: Mapping[str, Tensor],
    text_folder: Path,
    made: Mapping[str, Any],
) -> None:
    """A model's folder in bf16 that every command opens; one that is there is replaced when all is written.

    An index branch that `config.json` knows nothing of lies beside the weights, as a sidecar.

    Args:
        folder: of the model.
        raw: the contents of `config.json`.
        config: the model's, with its branch.
        parameters: whole, by the names of `TrainableDecoder`.
        text_folder: where the tokenizer and what belongs to it is copied from.
        made: what a sidecar says about how it was made.

    Raises:
        StoreError: it could not be written.
    """

    def weights(name: str, shape: tuple[int, ...]) -> Tensor:
        if (match := _EXPERT.fullmatch(name)) is None:
            return parameters[name]
        return parameters[f"{match[1]}.{match[3]}"][int(match[2])]

    beside = folder.with_name(f".{folder.name}.writing")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        write_weights(beside, raw, weights)
        for name in _TEXT_FILES:
            if (text_folder / name).is_file():
                shutil.copyfile(text_folder / name, beside / name)
        (beside / "config.json").write_text(json.dumps(dict(raw), indent=2))
        if config.index is not None and ModelConfig.from_hf(raw).index is None:
            branch = {name: parameters[name].to(torch.bfloat16) for name in tensor_shapes(config)}
            write_sidecar(beside, config.index, branch, identity_of(SafetensorsCheckpoint(beside)), made)
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise StoreError(f"{folder}: can't be written ({error.strerror or error})") from error
