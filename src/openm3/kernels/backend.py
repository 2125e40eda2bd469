"""Which implementation runs the operations: a value that the user chooses and reads, never a silent fallback."""

from __future__ import annotations

from types import ModuleType

from openm3.config import nearest
from openm3.errors import InputError

try:
    from openm3.kernels import _native
except ImportError as error:
    _native_missing = str(error)
else:
    _native_missing = ""

# Best first. "native" is our C++, built when a compiler was there; "torch" runs wherever torch's CPU build does;
# "reference" is the slow, obvious definition.
BACKENDS = ("torch", "reference") if _native_missing else ("native", "torch", "reference")


def choose(name: str | None = None) -> str:
    """The backend to use: the named one, or the best that is there.

    Raises:
        InputError: no backend has that name, or it is not built here.
    """
    if name is None:
        return BACKENDS[0]
    if name == "native" and _native_missing:
        raise InputError("backend", f"'native' is not built here ({_native_missing}); install with a C++ compiler")
    if name not in BACKENDS:
        raise InputError("backend", f"unknown backend {name!r}{nearest(name, list(BACKENDS))}")
    return name


def native() -> ModuleType:
    """The module of native kernels, for the operations whose backend is "native"."""
    return _native


def why_not_native() -> str:
    """Why the native kernels are not there; empty when they are."""
    return _native_missing
