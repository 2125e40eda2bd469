"""Tokens to text while they arrive: no character is ever split, and no part of a stop string slips out."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence

from openm3.errors import InputError
from openm3.text.tokenizer import Tokenizer


class Detokenizer:
    """The text of one growing sequence of tokens.

    What `push` returned so far plus `finish` equals `Tokenizer.decode` of all the tokens, for any tokens.
    The cost of a token doesn't depend on how many came before.

    Args:
        shown_ids: control tokens whose text is not left out, as it means something to who reads on (`marker_ids`).
    """

    def __init__(self, tokenizer: Tokenizer, shown_ids: Collection[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._hidden_ids = tokenizer.special_ids.difference(shown_ids)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that became certain with this token; bytes of an unfinished character are held back."""
        if token_id in self._hidden_ids:
            return ""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def finish(self) -> str:
        """The rest: a character that was never finished becomes U+FFFD."""
        return self._decoder.decode(b"", final=True)


class StopStrings:
    """Cuts a stream of text before the first stop string.

    The first is the one whose last character comes first, where a generation would halt; of two that end
    together, the longer. How the text is cut into pieces makes no difference. Pushing takes time in
    proportion to the new text, however long the stop strings are.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise InputError("stop", "an empty stop string would end every answer at once; leave it out")
        self._stops = [_Stop(text) for text in stops]
        self._hit: str | None = None

    def push(self, text: str) -> tuple[str, str | None]:
        """What may be emitted now, and the stop string once it is met; after it nothing more is emitted."""
        if self._hit is not None:
            return "", self._hit
        held, length = self._tail()
        for end, char in enumerate(text, start=1):
            hits = [stop.text for stop in self._stops if stop.advance(char)]
            if hits:
                self._hit = max(hits, key=len)
                return _front(held, length, text, length + end - len(self._hit)), self._hit
        return _front(held, length, text, length + len(text) - self._tail()[1]), None

    def finish(self) -> str:
        """The tail that was held back because it could have begun a stop string."""
        held, length = self._tail()
        return "" if self._hit is not None else held[:length]

    def _tail(self) -> tuple[str, int]:
        """The longest held tail: a stop string, and how much of it the text ends with."""
        longest = max(self._stops, key=lambda stop: stop.matched, default=None)
        return (longest.text, longest.matched) if longest else ("", 0)


class _Stop:
    """One stop string, matched a character at a time (Knuth, Morris and Pratt)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        # _fallback[n]: the longest proper prefix of text[: n + 1] that is also its end.
        self._fallback = [0]
        for char in text[1:]:
            self._fallback.append(self._next(self._fallback[-1], char))

    def advance(self, char: str) -> bool:
        """Takes the next character of the stream; true when the stop string is complete."""
        self.matched = self._next(self.matched, char)
        return self.matched == len(self.text)

    def _next(self, matched: int, char: str) -> int:
        while matched and self.text[matched] != char:
            matched = self._fallback[matched - 1]
        return matched + (self.text[matched] == char)


def _front(held: str, length: int, text: str, count: int) -> str:
    """The first `count` characters of `held[:length] + text`, without copying the rest."""
    return held[:count] if count <= length else held[:length] + text[: count - length]
