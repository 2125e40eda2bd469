"""The known name nearest to a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any


def nearest(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """`; did you mean 'x'?` for the known name nearest to a wrong one, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {match[0]!r}?" if match else ""
