"""Removes what somebody else may have made unwritable."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any


def remove(path: Path) -> None:
    """A file, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, onerror=_insist)
    else:
        path.unlink()


def _insist(function: Callable[..., Any], path: str, _: object) -> None:
    for one in (os.path.dirname(path), path):
        if os.path.isdir(one) and not os.path.islink(one):
            os.chmod(one, stat.S_IRWXU)
    if function is os.unlink or function is os.rmdir:
        function(path)
    else:
        shutil.rmtree(path)
