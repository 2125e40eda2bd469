"""A text in pieces that fit into a window."""

from __future__ import annotations

_OVERLAP = 0.1


def split(text: str, size: int) -> list[str]:
    """Pieces of at most `size` characters, which end with lines where they can; a tenth of each is in the next too."""
    pieces, start = list[str](), 0
    while True:
        end = start + size
        if size < 2 or end >= len(text):
            pieces.append(text[start:])
            return pieces
        line_end = text.rfind("\n", start + size // 2, end) + 1
        end = line_end or end
        pieces.append(text[start:end])
        start = end - int(size * _OVERLAP)
