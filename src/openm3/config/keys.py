"""Published keys, strictly: a key is understood, listed as without effect, or an error that names it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from openm3.config.model import RopeScaling
from openm3.config.names import nearest
from openm3.errors import ModelError


def build(cls: type[Any], config: Mapping[str, Any], source: str, known: Iterable[str] | None = None) -> Any:
    """A dataclass from published keys; `known` are the fields that a file may set, all where None.

    Raises:
        ModelError: an unknown or missing key, or a number or flag of the wrong type.
    """
    by_name = {field.name: field for field in fields(cls)}
    names = list(by_name) if known is None else list(known)
    for key in config:
        if key not in names:
            raise ModelError(f"{source}: unknown key {key!r}{nearest(key, names)}")
    for name in names:
        if name not in config and by_name[name].default is MISSING:
            raise ModelError(f"{source}: key {name!r} is missing")
    for name, value in config.items():
        kinds = {"int": (int,), "float": (int, float), "bool": (bool,)}.get(str(by_name[name].type))
        if kinds and type(value) not in kinds:
            raise ModelError(f"{source}: {name} must be a number or flag of type {by_name[name].type}, got {value!r}")
    return cls(**config)


def drop_only(config: dict[str, Any], only: Mapping[str, tuple[Any, ...]], source: str) -> None:
    """Takes keys out whose value changes nothing, and refuses their other values."""
    for key, values in only.items():
        if key in config and (value := config.pop(key)) not in values:
            raise ModelError(f"{source}: {key} = {value!r} is not supported; supported: {values[0]!r}")


def rope_scaling(raw: Mapping[str, Any], source: str) -> RopeScaling | None:
    """`rope_scaling`, or what `rope_parameters` holds besides theta."""
    values = dict(raw)
    kind = values.pop("rope_type", values.pop("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise ModelError(f"{source}: rope type {kind!r} is not supported; supported: 'default', 'llama3'")
    try:
        return RopeScaling(**values)
    except TypeError as error:
        raise ModelError(f"{source}: rope_scaling: {error}") from error


# Keys of published configurations that change nothing in the forward pass of any type.
WITHOUT_EFFECT = [
    "architectures",
    "auto_map",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "use_cache",
    "initializer_range",
    "pretraining_tp",
    "attention_dropout",
    "is_llama_config",
    "rope_interleaved",
    "transformers.js_config",
    "_name_or_path",
    "unsloth_fixed",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "chunk_size_feed_forward",
    "id2label",
    "label2id",
    "problem_type",
    "is_encoder_decoder",
]
