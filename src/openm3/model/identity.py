"""Which model a checkpoint is, by what its files hold."""

from __future__ import annotations

from pathlib import Path

import xxhash

from openm3.model.weights import Checkpoint

_WHOLE_BYTES = 256 << 20  # of files up to this size everything is read
_STEP_BYTES, _SAMPLE_BYTES = 4 << 20, 4096


def identity_of(checkpoint: Checkpoint) -> str:
    """16 hex digits that differ for another configuration and other weights.

    Small files are read whole. Of a large one it is the size, the first bytes, which tell names and shapes, and 4 KiB
    of every 4 MiB: two sets of weights that were trained apart differ in all of them.
    """
    files = [checkpoint.path] if checkpoint.path.is_file() else sorted(checkpoint.path.glob("*.safetensors"))
    state = xxhash.xxh3_64(repr(checkpoint.config).encode())
    for file in files:
        _add(state, file)
    return state.hexdigest()


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
