"""Names of files as text. They are bytes, and some are no UTF-8; text that can't be stored or sent helps nobody."""

from __future__ import annotations

import re

_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


def text_name(name: bytes) -> str:
    r"""A name as people read it; bytes that aren't UTF-8 are written as \xNN."""
    return name.decode(errors="backslashreplace")


def byte_name(name: str) -> bytes:
    """What `text_name` was made of."""
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), name.encode())
