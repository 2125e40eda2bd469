"""What the header of a checkpoint's file says of a tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

# Bits of a value in the dtypes of safetensors files.
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "F4": 4}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file, unread.

    Attributes:
        name: in the file.
        shape: its sizes.
        dtype: as the file names it.
        file: where it is.
        num_bytes: what it takes there; None computes it from shape and dtype, those not listed having 8 bits.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: Path
    num_bytes: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * _BITS.get(self.dtype, 8) // 8 if self.num_bytes is None else self.num_bytes
