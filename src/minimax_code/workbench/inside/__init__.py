"""Programs that run in the sandbox, in the interpreter of the code that they run. They import nothing of ours."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def script(name: str) -> str:
    """The text of one, by the name of its file."""
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
