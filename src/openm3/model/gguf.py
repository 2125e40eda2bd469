"""GGUF files, through the `gguf` library (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openm3.config import ModelConfig, nearest
from openm3.errors import ModelError
from openm3.kernels.linear import GroupedWeight
from openm3.kernels.linear.grouped import PACKED_BITS
from openm3.kernels.memory import Take, allocate, place
from openm3.model.stored import Cut, StoredTensor

# GGUF key -> ModelConfig field, behind the architecture's name.
_CONFIG_KEYS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}
# Keys that must agree with the head size.
_HEAD_SIZE_KEYS = ("rope.dimension_count", "attention.value_length")

# GGUF tensor -> ours; N stands for the layer.
_TENSOR_NAMES = {
    "token_embd.weight": "embed_tokens.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "lm_head.weight",
    "blk.N.attn_norm.weight": "layers.N.input_layernorm.weight",
    "blk.N.attn_q.weight": "layers.N.self_attn.q_proj.weight",
    "blk.N.attn_k.weight": "layers.N.self_attn.k_proj.weight",
    "blk.N.attn_v.weight": "layers.N.self_attn.v_proj.weight",
    "blk.N.attn_output.weight": "layers.N.self_attn.o_proj.weight",
    "blk.N.ffn_norm.weight": "layers.N.post_attention_layernorm.weight",
    "blk.N.ffn_gate.weight": "layers.N.mlp.gate_proj.weight",
    "blk.N.ffn_up.weight": "layers.N.mlp.up_proj.weight",
    "blk.N.ffn_down.weight": "layers.N.mlp.down_proj.weight",
}

# Our tensors whose rows llama.cpp has in another order.
_ROTATED = ("q_proj.weight", "k_proj.weight")

# Types that need not be dequantised, and the bits of their codes.
_KEPT = {
    gguf.GGMLQuantizationType.Q4_0: 4,
    gguf.GGMLQuantizationType.Q4_1: 4,
    gguf.GGMLQuantizationType.Q8_0: 8,
}


class _Reader(gguf.GGUFReader):
    """Reads a header four times as fast: every one of its slices of a `numpy.memmap` would be another one."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, np.asarray(value) if name == "data" else value)


class GGUFCheckpoint:
    """A model in one GGUF file.

    Attributes:
        path: the file.
        metadata: its key/value pairs, the tokenizer's among them.
        config: the model's configuration.

    Raises:
        ModelError: no GGUF file, cut short, an unsupported architecture, an unknown key or tensor.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            reader = _Reader(path)
            self.metadata: dict[str, Any] = {key: field.contents() for key, field in reader.fields.items()}
        except Exception as error:  # the reader raises whatever a hostile file leads it to
            raise ModelError(f"{path}: not a whole GGUF file ({error})") from error
        self._tensors = {self._checkpoint_name(tensor.name): tensor for tensor in reader.tensors}
        self.config = self._read_config()

    @property
    def names(self) -> list[str]:
        """Our names of the tensors in the file."""
        return list(self._tensors)

    def file_name(self, name: str) -> str:
        """The name in the file of the tensor that holds ours."""
        return str(self._tensors[name].name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of our tensor, from the file's header."""
        return tuple(int(size) for size in reversed(self._tensors[name].shape))

    @property
    def stored(self) -> dict[str, StoredTensor]:
        """Every tensor in the file, by its name there."""
        return {
            tensor.name: StoredTensor(
                tensor.name, self.shape(name), tensor.tensor_type.name, self.path, int(tensor.n_bytes)
            )
            for name, tensor in self._tensors.items()
        }

    def packed_bits(self, name: str) -> float | None:
        """Bits of a value where our tensor can stay as it is, see `read_quantised`; else None."""
        bits = _KEPT.get(self._tensors[name].tensor_type)
        return None if bits is None else PACKED_BITS[bits]

    def read_quantised(self, name: str, take: Take = allocate, cut: Cut | None = None) -> GroupedWeight:
        """A tensor of type Q4_0, Q4_1 or Q8_0, or a part of it, with its own codes; in memory of its own.

        Raises:
            ModelError: a part that is no whole groups; names the tensor.
        """
        tensor = self._tensors[name]
        weight = _grouped(tensor.data, tensor.tensor_type)
        if name.endswith(_ROTATED):
            weight = weight.each(lambda t: _pair_halves(t, t.shape[0] // self.config.head_dim))
        if cut is None:
            return weight
        if cut.dim == 0:
            return weight.each(lambda t: t[cut.start : cut.stop])
        try:
            return weight.columns(cut.start, cut.stop)
        except ValueError as error:
            raise ModelError(f"{self.path}: tensor {tensor.name} {error}") from error

    def read(self, name: str, take: Take = allocate, cut: Cut | None = None) -> Tensor:
        """One tensor, or a part of it, dequantised to fp32. What is dequantised comes as memory of its own.

        Raises:
            ModelError: a tensor type that can't be read; names the tensor.
        """
        tensor = self._tensors[name]
        try:
            array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            values = torch.from_numpy(array) if array.flags.writeable else place(torch.tensor(array), take)
        except Exception as error:  # NotImplementedError for a type, ValueError and others for broken data
            raise ModelError(
                f"{self.path}: tensor {tensor.name} of type {tensor.tensor_type.name} can't be read ({error})"
            ) from error
        if name.endswith(_ROTATED):
            values = _pair_halves(values, values.shape[0] // self.config.head_dim)
        return values if cut is None else place(values.narrow(cut.dim, cut.start, cut.stop - cut.start), take)

    def _checkpoint_name(self, name: str) -> str:
        parts = name.split(".")
        layer = parts[1] if parts[0] == "blk" and len(parts) > 2 and parts[1].isdigit() else None
        pattern = name if layer is None else ".".join(["blk", "N", *parts[2:]])
        if pattern not in _TENSOR_NAMES:
            raise ModelError(f"{self.path}: unknown tensor {name!r}{nearest(pattern, _TENSOR_NAMES)}")
        return _TENSOR_NAMES[pattern].replace("N", layer or "N", 1)

    def _read_config(self) -> ModelConfig:
        arch = self.metadata.get("general.architecture")
        if arch != "llama":
            raise ModelError(f"{self.path}: architecture {arch!r} is not supported; supported: 'llama'")
        prefix = f"{arch}."
        given = {key[len(prefix) :]: value for key, value in self.metadata.items() if key.startswith(prefix)}
        values: dict[str, Any] = {
            "tie_word_embeddings": "lm_head.weight" not in self._tensors,
            "vocab_size": len(self.metadata.get("tokenizer.ggml.tokens", ())),
            "rope_theta": 10000.0,
        }
        head_sizes = {key: given.pop(key) for key in _HEAD_SIZE_KEYS if key in given}
        for key, value in given.items():
            if key not in _CONFIG_KEYS:
                raise ModelError(f"{self.path}: key {prefix + key!r} = {value!r} is not understood")
            values[_CONFIG_KEYS[key]] = value
        try:
            values.setdefault("head_dim", values["hidden_size"] // values["num_attention_heads"])
            config = ModelConfig(**values)
        except (KeyError, TypeError, ZeroDivisionError) as error:
            raise ModelError(f"{self.path}: the configuration is incomplete or malformed ({error})") from error
        for key, value in head_sizes.items():
            if value != config.head_dim:
                raise ModelError(f"{self.path}: {prefix}{key} {value} differs from the head size {config.head_dim}")
        return config


def _grouped(rows_OK: NDArray[np.uint8], kind: gguf.GGMLQuantizationType) -> GroupedWeight:
    """The blocks of a tensor: a float16 scale, in Q4_1 an offset, and codes (ggml's `block_q4_1` and its like)."""
    num_rows, size = len(rows_OK), gguf.GGML_QUANT_SIZES[kind][1]
    blocks_OGK = rows_OK.reshape(num_rows, -1, size)

    def numbers(at: int) -> Tensor:
        return torch.from_numpy(blocks_OGK[..., at : at + 2].copy().view(np.float16)[..., 0])

    def codes(at: int) -> Tensor:
        return torch.from_numpy(blocks_OGK[..., at:].reshape(num_rows, -1))

    if kind == gguf.GGMLQuantizationType.Q8_0:
        return GroupedWeight(codes(2).view(torch.int8), numbers(0))
    if kind == gguf.GGMLQuantizationType.Q4_1:
        return GroupedWeight(codes(4), numbers(0), numbers(2))
    return GroupedWeight(codes(2), numbers(0), numbers(0) * -8)  # Q4_0: scale * (code - 8)


def _pair_halves(weight_OI: Tensor, num_heads: int) -> Tensor:
    """Undoes llama.cpp's order of q and k rows (pairs next to each other) for pairs (i, i + D/2)."""
    return weight_OI.unflatten(0, (num_heads, -1, 2)).transpose(1, 2).flatten(0, 2)
