"""Which model a checkpoint is, by what its files hold."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path

import xxhash

from openm3.model.aligned import AlignedCheckpoint
from openm3.model.sidecar import TENSORS
from openm3.model.weights import Checkpoint

_WHOLE_BYTES = 256 << 20  # of files up to this size everything is read
_STEP_BYTES, _SAMPLE_BYTES = 4 << 20, 4096


def identity_of(checkpoint: Checkpoint) -> str:
    """16 hex digits that differ for another configuration and other weights.

    Small files are read whole. Of a large one it is the size, the first bytes, which tell names and shapes, and 4 KiB
    of every 4 MiB: two sets of weights that were trained apart differ in all of them. An index branch beside them has
    an identity of its own, and changes nothing here.
    """
    if isinstance(checkpoint, AlignedCheckpoint):
        checkpoint = checkpoint.base
    files = [checkpoint.path] if checkpoint.path.is_file() else sorted(checkpoint.path.glob("*.safetensors"))
    state = xxhash.xxh3_64(_described(checkpoint.config).encode())
    for file in files:
        if file.name != TENSORS:
            _add(state, file)
    return state.hexdigest()


def _described(value: object) -> str:
    """A configuration without what is at its default, so that a field that comes later changes no identity."""
    if not is_dataclass(value) or isinstance(value, type):
        return repr(value)
    kept = [f"{f.name}={_described(x)}" for f in fields(value) if (x := getattr(value, f.name)) != f.default]
    return f"{type(value).__name__}({', '.join(kept)})"


def _add(state: xxhash.xxh3_64, path: Path) -> None:
    size = path.stat().st_size
    state.update(f"{size} ".encode())
    with open(path, "rb") as file:
        if size <= _WHOLE_BYTES:
            while piece := file.read(_STEP_BYTES):
                state.update(piece)
            return
        state.update(file.read(_STEP_BYTES))
        for start in range(_STEP_BYTES, size, _STEP_BYTES):
            file.seek(start)
            state.update(file.read(_SAMPLE_BYTES))
