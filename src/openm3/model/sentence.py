"""Sentence models: folders in the layout of sentence-transformers, from an encoder's states to one vector a text.

Letters: T packed tokens of all sequences, B sequences, C size of a state, E size of a vector.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from openm3.errors import ModelError
from openm3.model.bert import BertEncoder, fill

_POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "cls_token": lambda x_TC: x_TC[0],
    "lasttoken": lambda x_TC: x_TC[-1],
    "max_tokens": lambda x_TC: x_TC.amax(0),
    "mean_tokens": lambda x_TC: x_TC.mean(0),
    "mean_sqrt_len_tokens": lambda x_TC: x_TC.sum(0) / len(x_TC) ** 0.5,
}
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.nn.modules.linear.Identity": lambda x: x,
    "torch.nn.modules.activation.Tanh": torch.tanh,
}


class SentenceModel:
    """A loaded sentence model; it knows no thread but the caller's.

    Args:
        folder: with a modules.json.

    Attributes:
        name: the folder's.
        dimensions: of a vector.
        max_tokens: the most tokens of a text, those that the model puts around it included.
        vocab_size: token ids are below it.

    Raises:
        ModelError: the folder can't be used; names the file.
    """

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        encoder_folder, steps = _modules(folder)
        self._encoder = BertEncoder.load(encoder_folder)
        config = self._encoder.config
        self._steps = [make(folder / path) for make, path in steps]
        limits = _json(encoder_folder / "sentence_bert_config.json", optional=True)
        self.max_tokens = min(limits.get("max_seq_length") or config.max_tokens, config.max_tokens)
        self.vocab_size = config.vocab_size
        self._tokenizer = _tokenizer(encoder_folder / "tokenizer.json", self.vocab_size)
        self._truncating = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        self._truncating.encode_special_tokens = True
        self._truncating.enable_truncation(self.max_tokens)
        self.dimensions = self.embed([self.encode("")]).shape[1]

    def encode(self, text: str, *, truncate: bool = False) -> list[int]:
        """The tokens of a text with those around it; names of control tokens in it are ordinary characters.

        With `truncate` the end of a text that is more than `max_tokens` is left out.
        """
        tokenizer = self._truncating if truncate else self._tokenizer
        return list(tokenizer.encode(text).ids)

    @torch.inference_mode()
    def embed(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """fp32 `[B, E]`: a vector for each sequence of 1 to `max_tokens` tokens, in one pass."""
        states = self._encoder(sequences).split([len(sequence) for sequence in sequences])
        return torch.stack([reduce(lambda x, step: step(x), self._steps, x_TC) for x_TC in states])


Step = Callable[[Tensor], Tensor]


def _modules(folder: Path) -> tuple[Path, list[tuple[Callable[[Path], Step], str]]]:
    """Where the encoder is, and what follows: what makes each step, and its folder."""
    path = folder / "modules.json"
    modules = _json(path)
    if not isinstance(modules, list) or not all(isinstance(one, dict) for one in modules) or len(modules) < 2:
        raise ModelError(f"{path}: is no list of an encoder and what follows it")
    kinds = [str(one.get("type")).rpartition(".")[2] for one in modules]
    paths = [str(one.get("path", "")) for one in modules]
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in paths):
        raise ModelError(f"{path}: a module lies outside {folder}")
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise ModelError(f"{path}: begins with {kinds[:2]}; expected Transformer and Pooling")
    for kind in kinds[2:]:
        if kind not in _STEPS:
            raise ModelError(f"{path}: module {kind!r} is not supported; {', '.join(_STEPS)} are")
    return folder / paths[0], [(_STEPS[kind], name) for kind, name in zip(kinds[1:], paths[1:], strict=True)]


def _pooling(folder: Path) -> Step:
    path = folder / "config.json"
    modes = [name.removeprefix("pooling_mode_") for name, value in _json(path).items() if value is True]
    poolings = [_POOLINGS[mode] for mode in modes if mode in _POOLINGS]
    if not poolings or any(mode not in _POOLINGS for mode in modes if mode != "include_prompt"):
        raise ModelError(f"{path}: pooling modes {modes} are not supported; {', '.join(_POOLINGS)} are")
    return lambda x_TC: torch.cat([pool(x_TC) for pool in poolings])


def _dense(folder: Path) -> Step:
    config, file = _json(folder / "config.json"), folder / "model.safetensors"
    activation = _ACTIVATIONS.get(config.get("activation_function"))
    if activation is None:
        raise ModelError(f"{folder / 'config.json'}: activation_function is none of {', '.join(_ACTIVATIONS)}")
    try:
        with torch.device("meta"):
            linear = nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
        fill(linear, {name.removeprefix("linear."): value for name, value in load_file(file).items()}, file)
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise ModelError(f"{folder}: can't be read ({error})") from error
    return lambda x_C: activation(linear(x_C))


_STEPS: dict[str, Callable[[Path], Step]] = {
    "Pooling": _pooling,
    "Dense": _dense,
    "Normalize": lambda folder: lambda x_C: F.normalize(x_C, dim=-1),
}


def _json(path: Path, *, optional: bool = False) -> Any:
    if optional and not path.exists():
        return {}
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: can't be read ({error})") from error


def _tokenizer(path: Path, vocab_size: int) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower type
        raise ModelError(f"{path}: not a tokenizer: {error}") from error
    # A saved file may carry the limits of its training run.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    if (num_tokens := tokenizer.get_vocab_size()) > vocab_size:
        raise ModelError(f"{path}: has {num_tokens} tokens and the model only {vocab_size}")
    return tokenizer
