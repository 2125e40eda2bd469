"""Markers in a text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class Scanner:
    """The text that was pushed and not yet taken. What is taken doesn't depend on how the text was cut."""

    def __init__(self) -> None:
        self._text = ""
        self._final = False

    def push(self, text: str) -> None:
        self._text += text

    def end(self) -> None:
        """Nothing more comes: what could have begun a marker is text."""
        self._final = True

    def take(self, markers: Sequence[str]) -> tuple[str, str | None]:
        """The text before the first marker, and that marker, or None while there is none.

        Of several markers at one place it is the longest. Text that may be the beginning of one stays.
        """
        text = self._text
        found = [i for i in map(text.find, markers) if i >= 0]
        first = min(found, default=len(text))
        if not self._final:
            reach = max(map(len, markers), default=1) - 1
            for i in range(max(0, len(text) - reach), min(first + 1, len(text))):
                if any(len(marker) > len(text) - i and marker.startswith(text[i:]) for marker in markers):
                    self._text = text[i:]
                    return text[:i], None
        marker = max((marker for marker in markers if text.startswith(marker, first)), key=len, default="")
        self._text = text[first + len(marker) :]
        return text[:first], marker or None

    def take_space(self) -> str:
        """The white space at the front."""
        rest = self._text.lstrip()
        space, self._text = self._text[: len(self._text) - len(rest)], rest
        return space

    def may_begin(self, markers: Sequence[str]) -> bool:
        """Whether the text is too short to tell that no marker stands at its front."""
        return not self._final and any(marker.startswith(self._text) for marker in markers)

    def unread(self, text: str) -> None:
        """Puts text back to the front."""
        self._text = text + self._text
