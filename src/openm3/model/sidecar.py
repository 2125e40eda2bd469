"""An index branch beside a model's weights, as a folder of two files.

    msa_index.safetensors   the branch's tensors, under the names of M3's: model.layers.N.self_attn.index_q_proj.weight
    msa.json                the format, the branch's form, the model's identity, the tensors' checksum, how it was made

`msa.json` is written last, and has the other's checksum: files that don't belong together are refused.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import xxhash
from safetensors.torch import save
from torch import Tensor

from openm3.config import IndexConfig, ModelConfig, SparseConfig, nearest
from openm3.config.keys import build
from openm3.errors import InputError, ModelError
from openm3.model.stored import StoredTensor, read_header

FORMAT = 1
TENSORS, ABOUT = "msa_index.safetensors", "msa.json"

_KEYS = ("format", "index", "model_identity", "tensors_xxh3", "made")
_DTYPES = ("BF16", "F16", "F32")
_IDENTITY = re.compile(r"[0-9a-f]{16}")
_MOST_JSON_BYTES = 4 << 20
_MOST_BLOCKS, _LARGEST_HEAD = 1 << 16, 1024  # what no kernel would do well with


@dataclass(frozen=True)
class Sidecar:
    """An index branch that was made for a model's weights; its tensors are unread.

    Attributes:
        path: the folder.
        index: its form, and which blocks it chooses.
        model_identity: of the model that it is for, see `openm3.model.identity`.
        identity: 16 hex digits that differ for another branch.
        made: how it was made, as its maker wrote it.
        stored: the tensors by our names, which lack `model.`.
    """

    path: Path
    index: IndexConfig
    model_identity: str
    identity: str
    made: Mapping[str, Any]
    stored: Mapping[str, StoredTensor]

    @classmethod
    def read(cls, folder: Path) -> Sidecar:
        """Reads and checks what can be checked without the model; `check` does the rest.

        Raises:
            ModelError: a file is missing, cut short, changed, or not understood.
        """
        path = folder / ABOUT
        about = _read_about(path)
        index = _read_index(about["index"], f"{path}: index")
        for key in ("model_identity", "tensors_xxh3"):
            if not isinstance(about[key], str) or not _IDENTITY.fullmatch(about[key]):
                raise ModelError(f"{path}: {key} must be 16 hex digits, got {about[key]!r}")
        if not isinstance(about["made"], dict):
            raise ModelError(f"{path}: made must be a JSON object")
        tensors = folder / TENSORS
        stored = {tensor.name.removeprefix("model."): tensor for tensor in read_header(tensors)}
        digest = xxhash.xxh3_64(tensors.read_bytes()).hexdigest()
        if digest != about["tensors_xxh3"]:
            raise ModelError(f"{tensors}: was changed, or belongs to another {ABOUT}; its checksum is {digest}")
        identity = xxhash.xxh3_64(f"{index!r} {digest}".encode()).hexdigest()
        return cls(folder, index, about["model_identity"], identity, about["made"], stored)

    @property
    def form(self) -> str:
        """The branch in words."""
        index = self.index
        keys = "one key head for all" if index.index_n_key_heads == 1 else f"{index.index_n_key_heads} key heads"
        rotated = {None: "rotated", 0: "not rotated"}.get(index.index_rotary_dim, f"{index.index_rotary_dim} rotated")
        layers = f"{sum(index.sparse_attention_freq)} of {len(index.sparse_attention_freq)} layers"
        own = f", {len(index.own_key_layers)} choose by own keys" if index.own_key_layers else ""
        return f"{index.index_n_heads} query heads and {keys} of {index.index_head_dim}, {rotated}, in {layers}{own}"

    def check(self, config: ModelConfig) -> ModelConfig:
        """The configuration of the model with this branch.

        Raises:
            ModelError: the branch doesn't fit the model: its form, or a tensor that is missing, extra or misshaped.
        """
        try:
            whole = replace(config, index=self.index)
        except ModelError as error:
            raise ModelError(f"{self.path / ABOUT}: {error}") from error
        expected, file = tensor_shapes(whole), self.path / TENSORS
        for name, tensor in self.stored.items():
            if name not in expected:
                raise ModelError(f"{file}: unexpected tensor {tensor.name!r}{nearest(name, expected)}")
            if tensor.shape != expected[name]:
                raise ModelError(
                    f"{file}: tensor {tensor.name} has shape {list(tensor.shape)}, expected {list(expected[name])}"
                )
            if tensor.dtype not in _DTYPES:
                raise ModelError(
                    f"{file}: tensor {tensor.name} has dtype {tensor.dtype}, expected {', '.join(_DTYPES)}"
                )
        for name in sorted(set(expected).difference(self.stored)):
            raise ModelError(f"{file}: tensor 'model.{name}' is missing")
        return whole

    def fits(self, config: ModelConfig) -> bool:
        """Whether `check` finds nothing."""
        try:
            self.check(config)
        except ModelError:
            return False
        return True


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The tensors of a model's index branch, by our names."""
    index = config.index
    if index is None:
        return {}
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in filter(config.has_index, range(config.num_hidden_layers)):
        for part, heads in (("q", index.index_n_heads), ("k", index.index_n_key_heads)):
            name = f"layers.{layer}.self_attn.index_{part}"
            shapes[f"{name}_proj.weight"] = (heads * index.index_head_dim, config.hidden_size)
            if index.use_index_norm:
                shapes[f"{name}_norm.weight"] = (index.index_head_dim,)
    return shapes


def write_sidecar(
    folder: Path, index: IndexConfig, tensors: Mapping[str, Tensor], model_identity: str, made: Mapping[str, Any]
) -> None:
    """Writes both files; each is whole, or is not there.

    Args:
        folder: is made where it isn't there; other files in it stay.
        index: the form of the branch.
        tensors: by our names, see `tensor_shapes`, or with `model.` in front; in the dtype to be kept.
        model_identity: of the model that it is for, see `openm3.model.identity`.
        made: how it was made, for people; JSON.

    Raises:
        InputError: the folder can't be written.
    """
    named = {f"model.{name.removeprefix('model.')}": t.detach().cpu().contiguous() for name, t in tensors.items()}
    data = save(named)
    about = {
        "format": FORMAT,
        "index": asdict(index),
        "model_identity": model_identity,
        "tensors_xxh3": xxhash.xxh3_64(data).hexdigest(),
        "made": dict(made),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / TENSORS, data)
        _replace(folder / ABOUT, (json.dumps(about, indent=2) + "\n").encode())
    except OSError as error:
        raise InputError("folder", f"{folder} can't be written ({error.strerror}); give another one") from error


def _replace(path: Path, data: bytes) -> None:
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _read_about(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_JSON_BYTES + 1)
        if len(data) > _MOST_JSON_BYTES:
            raise ModelError(f"{path}: has more than {_MOST_JSON_BYTES:,} bytes")
        about = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: can't be read as JSON ({error})") from error
    if not isinstance(about, dict):
        raise ModelError(f"{path}: must hold a JSON object")
    if about.get("format") != FORMAT:
        raise ModelError(f"{path}: format {about.get('format')!r} is not understood; this version reads {FORMAT}")
    for key in about:
        if key not in _KEYS:
            raise ModelError(f"{path}: unknown key {key!r}{nearest(key, list(_KEYS))}")
    for key in _KEYS:
        if key not in about:
            raise ModelError(f"{path}: key {key!r} is missing")
    return about


def _read_index(given: object, source: str) -> IndexConfig:
    """The form, strictly; whether it fits a model is for `ModelConfig` to say."""
    if not isinstance(given, dict) or not isinstance(given.get("sparse"), dict):
        raise ModelError(f"{source}: must be a JSON object with the object 'sparse' in it")
    values = dict(given)
    try:
        values["sparse"] = build(SparseConfig, given["sparse"], f"{source}: sparse")
    except InputError as error:
        raise ModelError(f"{source}: sparse: {error}") from error
    if values["sparse"].index_topk_blocks > _MOST_BLOCKS:
        raise ModelError(f"{source}: sparse: index_topk_blocks must be at most {_MOST_BLOCKS:,}")
    for name in ("sparse_attention_freq", "own_key_layers"):
        if name in values:
            layers = values[name]
            if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
                raise ModelError(f"{source}: {name} must be a list of whole numbers, got {layers!r}")
            values[name] = tuple(layers)
    if type(values.get("index_rotary_dim")) not in (int, type(None)):
        raise ModelError(f"{source}: index_rotary_dim must be a whole number or null")
    index = cast(IndexConfig, build(IndexConfig, values, source))
    if index.index_head_dim % 16 or index.index_head_dim > _LARGEST_HEAD:
        raise ModelError(f"{source}: index_head_dim must be 16, 32, ... {_LARGEST_HEAD}, got {index.index_head_dim}")
    return index
