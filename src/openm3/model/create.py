"""Checkpoints with random weights in the published layout: config.json, shards, their index."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from openm3.config import ModelConfig
from openm3.errors import InputError, ModelError
from openm3.model.decoder import empty_decoder
from openm3.model.weights import stays_fp32

_SHARD_BYTES = 5 << 30


def published_name(name: str, config: ModelConfig) -> str:
    """The published name of one of our parameters: of M3, or of the Llama family."""
    prefix = "" if config.swiglu is None else "language_model."
    return f"{prefix}{name}" if name.startswith("lm_head") else f"{prefix}model.{name}"


def random_weights(name: str, shape: tuple[int, ...], generator: torch.Generator, std: float) -> Tensor:
    """fp32: normal with this deviation, zero for norms (which scale by 1 + weight) and for the router's bias."""
    return torch.zeros(shape) if len(shape) == 1 else torch.randn(shape, generator=generator).mul_(std)


def write_checkpoint(
    folder: Path,
    raw: Mapping[str, Any],
    *,
    seed: int = 0,
    std: float = 0.02,
    dtype: torch.dtype = torch.bfloat16,
    weights: Callable[[str, tuple[int, ...], torch.Generator, float], Tensor] = random_weights,
    shard_bytes: int = _SHARD_BYTES,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes an M3 checkpoint; the same seed gives the same. At most one shard is in memory.

    Args:
        folder: must not exist yet.
        raw: the contents of `config.json`.
        seed, std: of the random numbers.
        dtype: of the matrices; norms have it too, routers are fp32, as published.
        weights: makes a tensor from name, shape, random numbers and deviation.
        shard_bytes: the most bytes in a file.
        on_progress: called with bytes written and bytes in all.

    Raises:
        InputError: the folder exists.
        ModelError: the configuration is not supported.
    """
    if ModelConfig.from_hf(raw).swiglu is None:
        raise ModelError("config: only M3 checkpoints are written")
    if folder.exists():
        raise InputError("path", f"{folder} exists already")
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    write_weights(
        folder,
        raw,
        lambda name, shape: weights(name, shape, generator, std),
        dtype=dtype,
        shard_bytes=shard_bytes,
        on_progress=on_progress,
    )
    (folder / "config.json").write_text(json.dumps(raw, indent=2))


def write_weights(
    folder: Path,
    raw: Mapping[str, Any],
    weights: Callable[[str, tuple[int, ...]], Tensor],
    *,
    dtype: torch.dtype = torch.bfloat16,
    shard_bytes: int = _SHARD_BYTES,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes the shards of a checkpoint and their index, of M3 or the Llama family. At most one shard is in memory.

    Args:
        folder: where.
        raw: the contents of `config.json`.
        weights: gives a tensor by our name and its shape.
        dtype, shard_bytes, on_progress: see `write_checkpoint`.
    """
    config = ModelConfig.from_hf(raw)
    shapes = {name: tuple(p.shape) for name, p in empty_decoder(config).named_parameters()}
    sizes = {name: torch.Size(shape).numel() * _dtype(name, dtype).itemsize for name, shape in shapes.items()}
    shards, done, weight_map = _shards(sizes, shard_bytes), 0, {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {published_name(n, config): weights(n, shapes[n]).to(_dtype(n, dtype)).contiguous() for n in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, file))
        done += sum(sizes[name] for name in names)
        if on_progress is not None:
            on_progress(done, sum(sizes.values()))
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if stays_fp32(name) else dtype


def _shards(sizes: Mapping[str, int], shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for name, size in sizes.items():
        if size > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= size
    return shards
