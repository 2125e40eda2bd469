"""Which implementation runs the operations: a value that the user chooses and reads, never a silent fallback."""

from __future__ import annotations

from openm3.config import nearest
from openm3.errors import InputError

# Best first. "torch" runs wherever torch's CPU build does; "reference" is the slow, obvious definition.
BACKENDS = ("torch", "reference")


def choose(name: str | None = None) -> str:
    """The backend to use: the named one, or the best that is there.

    Raises:
        InputError: no backend has that name.
    """
    if name is None:
        return BACKENDS[0]
    if name not in BACKENDS:
        raise InputError("backend", f"unknown backend {name!r}{nearest(name, list(BACKENDS))}")
    return name
