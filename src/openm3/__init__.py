"""OpenM3: sparse attention, the M3 model, and an engine for long contexts. Importing it does nothing."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openm3.functional import msa as msa

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`openm3.msa`, which brings torch, is imported when it is first asked for."""
    if name == "msa":
        from openm3.functional import msa

        return msa
    raise AttributeError(f"module 'openm3' has no attribute {name!r}")
