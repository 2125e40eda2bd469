"""Encoders of the BERT family, which read in both directions: for sentence models.

Letters: T packed tokens of all sequences, C hidden size, H heads, D head size, Y types of tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from openm3.errors import ModelError

_ROBERTAS = ("roberta", "xlm-roberta", "camembert")  # BERTs whose positions begin behind that of padding
MODEL_TYPES = ("bert", *_ROBERTAS)
_ACTIVATIONS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
# In checkpoints, and no part of an encoder: numbers that count up, and heads of the training's tasks.
_SKIPPED = ("embeddings.position_ids", "embeddings.token_type_ids", "pooler.", "cls.", "lm_head.", "classifier.")


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """The fields of config.json that an encoder has, with their names there."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    hidden_act: str
    first_position: int = 0

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a config.json.

        Raises:
            ModelError: it is missing, broken, or of another kind of model; names the key.
        """
        try:
            values: dict[str, Any] = json.loads(path.read_bytes())
            kind = values.get("model_type")
        except (OSError, ValueError, AttributeError) as error:
            raise ModelError(f"{path}: can't be read ({error})") from error
        if kind not in MODEL_TYPES:
            raise ModelError(f"{path}: model_type {kind!r} is no encoder that is known; those are {MODEL_TYPES}")
        if values.get("position_embedding_type", "absolute") != "absolute":
            raise ModelError(f"{path}: position_embedding_type {values['position_embedding_type']!r} is not supported")
        if values.get("hidden_act") not in _ACTIVATIONS:
            raise ModelError(f"{path}: hidden_act {values.get('hidden_act')!r} is not one of {list(_ACTIVATIONS)}")
        names = [name for name in cls.__dataclass_fields__ if name != "first_position"]
        if missing := [name for name in names if type(values.get(name)) not in (int, float, str)]:
            raise ModelError(f"{path}: {missing[0]} is missing or no number")
        first = values.get("pad_token_id", 1) + 1 if kind in _ROBERTAS else 0
        return cls(**{name: values[name] for name in names}, first_position=first)

    @property
    def max_tokens(self) -> int:
        """The most tokens of a sequence."""
        return self.max_position_embeddings - self.first_position


class BertEncoder(nn.Module):
    """From tokens to one state each. Parameter names are the checkpoint's.

    Sequences are packed one behind the other, so nothing is padded: products see all tokens at once, attention each
    sequence alone.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config.vocab_size, size),
                "position_embeddings": nn.Embedding(config.max_position_embeddings, size),
                "token_type_embeddings": nn.Embedding(config.type_vocab_size, size),
                "LayerNorm": nn.LayerNorm(size, config.layer_norm_eps),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """From config.json and model.safetensors.

        Raises:
            ModelError: they can't be used; names the tensor.
        """
        config, file = BertConfig.read(folder / "config.json"), folder / "model.safetensors"
        try:
            stored = load_file(file)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{file}: can't be read ({error})") from error
        tensors = {name.removeprefix("bert.").removeprefix("roberta."): value for name, value in stored.items()}
        tensors = {name: value for name, value in tensors.items() if not name.startswith(_SKIPPED)}
        with torch.device("meta"):
            encoder = cls(config)
        fill(encoder, tensors, file)
        return encoder.eval()

    def forward(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """fp32 `[T, C]`: the states of the last layer."""
        lengths = [len(sequence) for sequence in sequences]
        ids_T = torch.tensor([token for sequence in sequences for token in sequence])
        positions_T = torch.cat([torch.arange(length) for length in lengths]) + self.config.first_position
        parts, layers = self.embeddings, cast(nn.ModuleList, self.encoder["layer"])
        types_YC = cast(nn.Embedding, parts["token_type_embeddings"]).weight
        x_TC = parts["word_embeddings"](ids_T) + parts["position_embeddings"](positions_T)
        x_TC = parts["LayerNorm"](x_TC + types_YC[0])
        for layer in layers:
            x_TC = layer(x_TC, lengths)
        return x_TC


class _Layer(nn.Module):
    """Attention, then an MLP, each added to the stream and normed behind it."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.intermediate_size
        self.num_heads, self._approximate = config.num_attention_heads, _ACTIVATIONS[config.hidden_act]
        projections = nn.ModuleDict({name: nn.Linear(size, size) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"self": projections, "output": _output(size, config)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(size, inner)})
        self.output = _output(inner, config)

    def forward(self, x_TC: Tensor, lengths: Sequence[int]) -> Tensor:
        projections: Any = self.attention["self"]
        q_HTD, k_HTD, v_HTD = (
            projections[name](x_TC).unflatten(1, (self.num_heads, -1)).transpose(0, 1)
            for name in ("query", "key", "value")
        )
        parts = zip(*(x_HTD.split(lengths, dim=1) for x_HTD in (q_HTD, k_HTD, v_HTD)), strict=True)
        seen_HTD = torch.cat([F.scaled_dot_product_attention(q[None], k[None], v[None])[0] for q, k, v in parts], dim=1)
        x_TC = _added(self.attention["output"], seen_HTD.transpose(0, 1).flatten(1), x_TC)
        inner = F.gelu(self.intermediate["dense"](x_TC), approximate=self._approximate)
        return _added(self.output, inner, x_TC)


def _output(num_in: int, config: BertConfig) -> nn.ModuleDict:
    norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
    return nn.ModuleDict({"dense": nn.Linear(num_in, config.hidden_size), "LayerNorm": norm})


def _added(output: Any, y: Tensor, x_TC: Tensor) -> Tensor:
    normed: Tensor = output["LayerNorm"](output["dense"](y) + x_TC)
    return normed


def fill(module: nn.Module, tensors: dict[str, Tensor], file: Path) -> None:
    """Gives a module without memory its parameters, in fp32.

    Raises:
        ModelError: a tensor is missing, too many or of another shape.
    """
    wanted = dict(module.named_parameters())
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors:
            raise ModelError(f"{file}: tensor {name} is missing")
        if name not in wanted:
            raise ModelError(f"{file}: tensor {name} is none of this kind of model")
        if tensors[name].shape != wanted[name].shape:
            expected, got = tuple(wanted[name].shape), tuple(tensors[name].shape)
            raise ModelError(f"{file}: tensor {name} has shape {got}, expected {expected}")
    module.load_state_dict({name: value.float() for name, value in tensors.items()}, assign=True)
