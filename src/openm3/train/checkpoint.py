"""Checkpoints of a training run: whole or not there, whenever the process is killed.

A folder of checkpoints holds `step-00000120/` with `tensors.safetensors` and `state.json`, which has everything that is
no tensor and the tensors' checksum. One is written beside and moved last; then the older ones go.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from openm3.errors import StoreError

VERSION = 1
_NAME = re.compile(r"step-(\d{8})")
_TENSORS, _STATE = "tensors.safetensors", "state.json"
_PIECE_BYTES = 4 << 20


def save(folder: Path, step: int, state: Mapping[str, Any], *, keep: int = 2) -> Path:
    """Writes a checkpoint and returns where it lies.

    Args:
        folder: of the run's checkpoints; made where it isn't there.
        step: of the run; a checkpoint of this step is replaced.
        state: tensors, numbers, strings, None, and dictionaries and lists of them.
        keep: how many of the newest stay.

    Raises:
        StoreError: it could not be written; those before it are still there.
    """
    final, beside = folder / f"step-{step:08}", folder / f".step-{step:08}.writing"
    tensors: dict[str, Tensor] = {}
    about = {"version": VERSION, "step": step, "state": _without_tensors(state, "", tensors)}
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        save_file(tensors, beside / _TENSORS)
        about["checksum"] = _checksum(beside / _TENSORS)
        (beside / _STATE).write_text(json.dumps(about))
        for name in (_TENSORS, _STATE):
            _sync(beside / name)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(beside, final)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise StoreError(f"{final}: can't be written ({error}); {_what_is_left(folder)}") from error
    for older in steps(folder)[:-keep]:
        shutil.rmtree(folder / f"step-{older:08}", ignore_errors=True)
    return final


def load(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint's step and state; None where there is none.

    Raises:
        StoreError: it is damaged.
    """
    if not (known := steps(folder)):
        return None
    path = folder / f"step-{known[-1]:08}"
    try:
        about = json.loads((path / _STATE).read_text())
        if about["version"] != VERSION:
            raise ValueError(f"version {about['version']} instead of {VERSION}")
        if about["checksum"] != _checksum(path / _TENSORS):
            raise ValueError(f"{_TENSORS} has another checksum")
        state = _with_tensors(about["state"], load_file(path / _TENSORS))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        hint = f"delete it to go on from step {known[-2]}" if len(known) > 1 else "begin the run again"
        raise StoreError(f"{path}: is damaged ({error}); {hint}") from error
    return known[-1], state


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, the newest last."""
    names = [_NAME.fullmatch(path.name) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name[1]) for name in names if name)


def _what_is_left(folder: Path) -> str:
    known = steps(folder)
    return f"the last good checkpoint is of step {known[-1]}" if known else "there is no checkpoint yet"


def _without_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON has it; its tensors go to `tensors` under their paths."""
    if isinstance(value, Tensor):
        # A copy, as no two tensors of a file may share memory.
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": path}
    if isinstance(value, Mapping):
        items = [[key, _without_tensors(item, f"{path}.{key}".lstrip("."), tensors)] for key, item in value.items()]
        return {"items": items}  # pairs, as keys may be numbers
    if isinstance(value, list | tuple):
        return [_without_tensors(item, f"{path}.{i}".lstrip("."), tensors) for i, item in enumerate(value)]
    if isinstance(value, str | int | float | None):
        return value
    raise TypeError(f"{path}: a {type(value).__name__} can't be kept in a checkpoint")


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _with_tensors(item, tensors) for key, item in value["items"]}
    return [_with_tensors(item, tensors) for item in value] if isinstance(value, list) else value


def _checksum(path: Path) -> str:
    state = xxhash.xxh3_64()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            state.update(piece)
    return state.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
