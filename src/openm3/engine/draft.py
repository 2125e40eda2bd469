"""Drafts of what comes next: what followed where the last tokens stood before, in prompt and answer. No torch here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from openm3.text.grammar import Matcher

_GRAM = 3  # tokens that have to be the same
_BITS = 21  # of a token id, so that three fit in a number
_PLACES = 16  # places that are compared, the latest ones
_LONGEST = 32  # tokens that are compared at each
_FORGET_USED, _FORGET_UNUSED = 0.9, 0.98


class Lookup:
    """Where the last tokens of a growing text stood before.

    The prompt's n-grams are sorted once, those of the answer are added as it grows: a token costs the same after a
    prompt of any length, but for a binary search.

    Args:
        prompt: its tokens.
        answer: the tokens so far; the list that grows.
    """

    def __init__(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        self._prompt, self._answer = prompt, answer
        tokens = np.asarray(prompt, dtype=np.int64)
        num_grams = max(len(tokens) - _GRAM + 1, 0)
        keys = np.zeros(num_grams, dtype=np.int64)
        for i in range(_GRAM):
            keys = keys << _BITS | tokens[i : i + num_grams]
        self._order = np.argsort(keys, kind="stable").astype(np.int32)  # equal ones in the order of the text
        self._keys = keys[self._order]
        self._later: defaultdict[int, list[int]] = defaultdict(list)  # of n-grams that end in the answer
        self._num_added = 0

    def find(self) -> tuple[int, int]:
        """What follows the place that has most in common with the end of the text, the latest of equal ones.

        Returns:
            The index of the token that follows there, and how many tokens before it are those that the text ends with
            (up to 32); 0 where there is no such place.
        """
        end = len(self._prompt) + len(self._answer)
        if end < _GRAM:
            return 0, 0
        self._add_answer(end)
        key = self._key(end)
        low, high = (int(np.searchsorted(self._keys, key, side)) for side in ("left", "right"))
        places = (self._order[max(low, high - _PLACES) : high] + _GRAM).tolist() + self._later[key][-_PLACES:]
        best, most = 0, 0
        for place in reversed(places):
            if place < end and (common := self._common(place, end)) > most:
                best, most = place, common
        return best, most

    def tokens(self, start: int, count: int) -> list[int]:
        """Up to `count` tokens of the text from `start` on."""
        end = len(self._prompt) + len(self._answer)
        return [self._token(i) for i in range(start, min(start + count, end))]

    def _add_answer(self, end: int) -> None:
        for stop in range(max(len(self._prompt) + self._num_added + 1, _GRAM), end + 1):
            self._later[self._key(stop)].append(stop)
        self._num_added = len(self._answer)

    def _token(self, i: int) -> int:
        num_prompt = len(self._prompt)
        return self._prompt[i] if i < num_prompt else self._answer[i - num_prompt]

    def _key(self, stop: int) -> int:
        key = 0
        for i in range(stop - _GRAM, stop):
            key = key << _BITS | self._token(i)
        return key

    def _common(self, place: int, end: int) -> int:
        """Equal tokens before two places; those of the n-gram are."""
        common = _GRAM
        while common < min(place, _LONGEST) and self._token(place - 1 - common) == self._token(end - 1 - common):
            common += 1
        return common


@dataclass(frozen=True)
class Draft:
    """Tokens that may come next, and the chance of each to be right if those before it are."""

    tokens: tuple[int, ...] = ()
    chance: float = 0.0


@dataclass
class _Record:
    """How many draft tokens were right, and how many wrong, of late."""

    right: float = 0.0
    wrong: float = 0.0

    def fade(self, factor: float) -> None:
        self.right, self.wrong = factor * self.right, factor * self.wrong


class Drafter:
    """Drafts one request's next tokens, and learns how often they are right.

    It is learnt apart for short and long matches: three common tokens promise little, thirty much. What was learnt
    fades while nothing is drafted, so that after a while it is tried again.

    Args:
        prompt, answer: as in `Lookup`.
        matcher: of an answer with a constraint: what it forces is drafted first, what it forbids never.
    """

    def __init__(self, prompt: Sequence[int], answer: Sequence[int], matcher: Matcher | None = None) -> None:
        self._lookup, self._matcher = Lookup(prompt, answer), matcher
        self._records: dict[int, _Record] = defaultdict(_Record)
        self._kind = 0  # of the last draft

    def draft(self, most: int) -> Draft:
        """Up to `most` tokens."""
        if most < 1:
            return Draft()
        tokens = self._matcher.forced()[:most] if self._matcher else []
        common = _LONGEST
        if not tokens:
            start, common = self._lookup.find()
            tokens = self._lookup.tokens(start, most) if common else []
            if self._matcher:
                tokens = tokens[: self._matcher.count_allowed(tokens)]
        if not tokens:
            return Draft()
        self._kind = common.bit_length()
        record = self._records[self._kind]
        right, wrong = record.right + common / (common + _GRAM), record.wrong + _GRAM / (common + _GRAM)
        record.fade(_FORGET_UNUSED)
        return Draft(tuple(tokens), right / (right + wrong))

    def learn(self, num_drafted: int, num_right: int) -> None:
        """What became of the last draft: the first wrong token ends it."""
        record = self._records[self._kind]
        record.fade(_FORGET_USED)
        record.right += num_right
        record.wrong += num_right < num_drafted
