"""What the header of a checkpoint's file says of a tensor, and how it is read."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from openm3.errors import ModelError
from openm3.kernels.memory import Take, place

# Bits of a value in the dtypes of safetensors files.
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "F4": 4}

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.uint8,
    "U8": torch.uint8,
}


@dataclass(frozen=True)
class Cut:
    """A part of a matrix: elements `start` to `stop` - 1 of a dimension."""

    dim: int
    start: int
    stop: int

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the part in a tensor of this shape."""
        return (*whole[: self.dim], self.stop - self.start, *whole[self.dim + 1 :])


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file, unread.

    Attributes:
        name: in the file.
        shape: its sizes.
        dtype: as the file names it.
        file: where it is.
        num_bytes: what it takes there; None computes it from shape and dtype, those not listed having 8 bits.
        start: where it begins in the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: Path
    num_bytes: int | None = None
    start: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * _BITS.get(self.dtype, 8) // 8 if self.num_bytes is None else self.num_bytes

    def read(
        self, take: Take, *, first: int = 0, shape: tuple[int, ...] | None = None, cut: Cut | None = None
    ) -> Tensor:
        """The values from the `first` one on, as a tensor of this shape; without both, all. Contiguous.

        Args:
            take: gives the memory.
            first, shape: which values.
            cut: read only this part of the shape. Of columns, whole rows pass through memory, a few at a time.

        Raises:
            ModelError: a dtype that weights don't have, or the file is cut short; names the tensor.
        """
        dtype = _DTYPES.get(self.dtype)
        if dtype is None:
            raise ModelError(
                f"{self.file}: tensor {self.name} has dtype {self.dtype}, expected one of {', '.join(_DTYPES)}"
            )
        shape, start = shape or self.shape, self.start + first * dtype.itemsize
        row = math.prod(shape[1:]) * dtype.itemsize
        if cut is None:
            cut = Cut(0, 0, shape[0]) if shape else Cut(0, 0, 1)
        if cut.dim == 0:
            values = take((cut.stop - cut.start) * row)
            self._fill(values, start + cut.start * row)
            return values.view(dtype).view(cut.shape(shape) if shape else ())
        out = take(math.prod(cut.shape(shape)) * dtype.itemsize).view(dtype).view(cut.shape(shape))
        rows = max(1, (1 << 20) // row)
        buffer = torch.empty(min(rows, shape[0]) * row, dtype=torch.uint8)
        for begin in range(0, shape[0], rows):
            count = min(rows, shape[0] - begin)
            self._fill(buffer[: count * row], start + begin * row)
            whole = buffer[: count * row].view(dtype).view(count, *shape[1:])
            out[begin : begin + count] = whole.narrow(cut.dim, cut.start, cut.stop - cut.start)
        return out

    def _fill(self, values: Tensor, start: int) -> None:
        left, opened = memoryview(values.numpy().data), os.open(self.file, os.O_RDONLY)
        try:
            while len(left):
                count = os.preadv(opened, [left], start)
                if not count:
                    raise ModelError(f"{self.file}: cut short within tensor {self.name}")
                left, start = left[count:], start + count
        finally:
            os.close(opened)


def read_header(file: Path) -> list[StoredTensor]:
    """The tensors of a safetensors file (https://github.com/huggingface/safetensors, "Format").

    Raises:
        ModelError: it is not one, or is cut short.
    """
    try:
        with safe_open(file, framework="pt"):  # checks sizes and offsets
            pass
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(size))
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"{file}: not a whole safetensors file ({error})") from error
    return [
        StoredTensor(name, tuple(entry["shape"]), entry["dtype"], file, start=8 + size + entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    ]


def as_dtype(tensor: Tensor, dtype: torch.dtype, take: Take) -> Tensor:
    """The tensor in this dtype; one of another dtype is converted into memory that is taken."""
    return tensor if tensor.dtype == dtype else place(tensor, take, dtype)
