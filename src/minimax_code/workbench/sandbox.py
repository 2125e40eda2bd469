"""Which sandboxes there are, which work here, and the one to use."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from minimax_code.errors import SandboxError
from minimax_code.workbench.bubblewrap import Bubblewrap
from minimax_code.workbench.confinement import Ran, Sandbox
from minimax_code.workbench.running import Limits

__all__ = ["Limits", "Ran", "Sandbox", "find_sandbox"]


def find_sandbox(name: str | None = None, readable: Sequence[Path] = ()) -> Sandbox:
    """The sandbox of that name, or the best that works here.

    Args:
        readable: what commands may read besides the system and this Python.

    Raises:
        SandboxError: it can't be had; nothing is ever run outside of one in its place.
    """
    if name not in (None, "bubblewrap"):
        raise SandboxError(f"there is no sandbox named {name!r}; there is bubblewrap")
    if shutil.which("bwrap") is None:
        raise SandboxError("bubblewrap isn't there; install it with `apt-get install bubblewrap`")
    return Bubblewrap(readable)
