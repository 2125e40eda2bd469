"""Which implementation runs the operations: a value that the user chooses and reads, never a silent fallback."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from openm3.config import nearest
from openm3.errors import InputError

try:
    from openm3.kernels import _native
except ImportError as error:
    _native_missing = str(error)
else:
    _native_missing = ""

# Best first. "native" is our C++, built when a compiler was there; "torch" runs wherever torch does; "reference" is the
# slow, obvious definition.
BACKENDS = ("torch", "reference") if _native_missing else ("native", "torch", "reference")


_NATIVE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def choose(name: str | None = None, like: Tensor | None = None) -> str:
    """The backend to use: the named one, or the best that is there and has attention for queries `like` these.

    Raises:
        InputError: no backend has that name, it is not built here, or it lacks code for such queries.
    """
    lack = "" if like is None else _native_lack(like)
    if name is None:
        return next(backend for backend in BACKENDS if backend != "native" or not lack)
    if name == "native" and lack:
        raise InputError("backend", f"'native' has no code for {lack}; use 'torch'")
    if name == "native" and _native_missing:
        raise InputError("backend", f"'native' is not built here ({_native_missing}); install with a C++ compiler")
    if name not in BACKENDS:
        raise InputError("backend", f"unknown backend {name!r}{nearest(name, list(BACKENDS))}")
    return name


def _native_lack(q: Tensor) -> str:
    """What the native kernels have no code for, of the device, dtype and head size (the last one) of queries."""
    if q.device.type != "cpu":
        return f"device {q.device.type}"
    if q.dtype not in _NATIVE_DTYPES:
        return f"{q.dtype}".removeprefix("torch.")
    return f"head size {q.shape[-1]}, only for multiples of 16" if q.shape[-1] % 16 else ""


def native() -> ModuleType:
    """The module of native kernels, for the operations whose backend is "native"."""
    return _native


def why_not_native() -> str:
    """Why the native kernels are not there; empty when they are."""
    return _native_missing
