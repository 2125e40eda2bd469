"""Which implementation runs the operations: a value that the user chooses and reads, never a silent fallback."""

from __future__ import annotations

import importlib.util
import os
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

_has_triton = importlib.util.find_spec("triton") is not None

# Best first. "triton" runs on GPUs; "native" is our C++, built when a compiler was there; "torch" are torch's own
# operations on a CPU; "reference" is the slow, obvious definition.
BACKENDS = tuple(
    name
    for name, there in (("triton", _has_triton), ("native", not _native_missing), ("torch", True), ("reference", True))
    if there
)

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LARGEST_TRITON_HEAD = 256


def choose(name: str | None = None, like: Tensor | None = None) -> str:
    """The backend to use: the named one, or the best that is there and has attention for queries `like` these.

    Without `like` the queries are on the CPU and of a kind that every backend takes. On the CPU "triton" runs where
    it is named and Triton's interpreter is on (`TRITON_INTERPRET=1`), for tests.

    Raises:
        InputError: no backend has that name, it is not built here, or it lacks code for such queries.
    """
    if name is None:
        usable = [backend for backend in BACKENDS if not _lack(backend, like)]
        if like is None or like.device.type == "cpu":
            return next(backend for backend in usable if backend != "triton")
        if not usable:
            raise InputError("backend", f"none has code for {_lack(BACKENDS[0], like)}; install triton")
        return usable[0]
    if name == "native" and _native_missing:
        raise InputError("backend", f"'native' is not built here ({_native_missing}); install with a C++ compiler")
    if name == "triton" and not _has_triton:
        raise InputError("backend", "'triton' is not installed here; install triton")
    if name not in BACKENDS:
        raise InputError("backend", f"unknown backend {name!r}{nearest(name, list(BACKENDS))}")
    if lack := _lack(name, like):
        raise InputError("backend", f"{name!r} has no code for {lack}; leave the backend out to have one chosen")
    return name


def _lack(name: str, like: Tensor | None) -> str:
    """What a backend has no code for, of the device, dtype and head size (the last one) of queries."""
    if like is None:
        return ""
    on_gpu = like.device.type == "cuda"
    if name == "triton":
        if not on_gpu and not (like.device.type == "cpu" and interpreting()):
            return f"device {like.device.type}"
    elif like.device.type != "cpu":
        return f"device {like.device.type}"
    if name in ("torch", "reference"):
        return ""
    if like.dtype not in _DTYPES:
        return f"{like.dtype}".removeprefix("torch.")
    if name == "native" and like.shape[-1] % 16:
        return f"head size {like.shape[-1]}, only for multiples of 16"
    if name == "triton" and like.shape[-1] > _LARGEST_TRITON_HEAD:
        return f"head size {like.shape[-1]}, only up to {_LARGEST_TRITON_HEAD}"
    return ""


def choose_device(name: str | None = None, backend: str | None = None) -> torch.device:
    """The named device, or, where the named backend runs on one, a GPU that our kernels run on, or the CPU.

    Raises:
        InputError: a GPU is asked for and torch sees none.
    """
    if name is None:
        name = "cuda" if _has_triton and backend in (None, "triton") and torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device", "torch sees no CUDA device here; use 'cpu'")
    return torch.device(name, torch.cuda.current_device()) if name == "cuda" else torch.device(name)


def interpreting() -> bool:
    """Whether Triton's kernels run in its interpreter, on the CPU; it is decided when they are first used."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def native() -> ModuleType:
    """The module of native kernels, for the operations whose backend is "native"."""
    return _native


def why_not_native() -> str:
    """Why the native kernels are not there; empty when they are."""
    return _native_missing
