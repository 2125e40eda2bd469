"""What the pages of the cache hold, so that a prompt begins where a known one ended. No torch here."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Match:
    """What is known of a prompt.

    Attributes:
        pages: those that hold its first tokens, in order and full.
        chain: a digest for each of them.
        partial: the page after them whose first tokens are the prompt's next ones, or None.
        num_partial: how many these are.
    """

    pages: tuple[int, ...] = ()
    chain: tuple[bytes, ...] = ()
    partial: int | None = None
    num_partial: int = 0


@dataclass
class _Known:
    parent: bytes
    tokens: tuple[int, ...]
    digest: bytes | None  # of a full page


@dataclass
class PrefixIndex:
    """Pages by the tokens in them and before them.

    A full page is known by a digest (BLAKE2b) of its tokens and the digest of the page before, so by everything up to
    its end: what is equal there has the same keys and values. A page that is not full, the last one of an answer, is
    known beside the full ones as a child of the page before it; its tokens can be copied, not shared.
    """

    page_size: int
    _full: dict[bytes, int] = field(default_factory=dict)
    _known: dict[int, _Known] = field(default_factory=dict)
    _children: dict[bytes, set[int]] = field(default_factory=dict)

    def match(self, tokens: Sequence[int], salt: bytes = b"") -> Match:
        """What is known of all but the last token, which is always computed: its logits are what is wanted.

        `salt` stands for what tokens don't say, as the pixels of an image: other salts share nothing.
        """
        parent, pages, chain = salt, [], []
        for start in range(0, len(tokens) - self.page_size, self.page_size):
            digest = _digest(parent, tokens[start : start + self.page_size])
            if digest not in self._full:
                break
            pages.append(self._full[digest])
            chain.append(digest)
            parent = digest
        start = len(pages) * self.page_size
        rest = tuple(tokens[start : min(start + self.page_size, len(tokens) - 1)])
        best, most = None, 0
        for page in self._children.get(parent, ()):
            count = _common(rest, self._known[page].tokens)
            if count > most:
                best, most = page, count
        return Match(tuple(pages), tuple(chain), best, most)

    def add(self, page: int, parent: bytes, tokens: Sequence[int]) -> bytes | None:
        """Makes a page known, unless one with the same tokens is; returns the digest of a full one.

        `parent` is the digest of the page before, or the salt.
        """
        digest = _digest(parent, tokens) if len(tokens) == self.page_size else None
        if page not in self._known and digest not in self._full:
            self._known[page] = _Known(parent, tuple(tokens), digest)
            self._children.setdefault(parent, set()).add(page)
            if digest is not None:
                self._full[digest] = page
        return digest

    def is_leaf(self, page: int) -> bool:
        """Whether nothing is known behind a known page."""
        digest = self._known[page].digest
        return digest is None or digest not in self._children

    def parent(self, page: int) -> int | None:
        """The page before a known page, where that is known."""
        return self._full.get(self._known[page].parent)

    def forget(self, page: int) -> None:
        """The page's memory goes to somebody else."""
        known = self._known.pop(page)
        siblings = self._children[known.parent]
        siblings.remove(page)
        if not siblings:
            del self._children[known.parent]
        if known.digest is not None:
            del self._full[known.digest]

    def __contains__(self, page: int) -> bool:
        return page in self._known


def _digest(parent: bytes, tokens: Sequence[int]) -> bytes:
    return hashlib.blake2b(parent + array("q", tokens).tobytes(), digest_size=16).digest()


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for i, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return i
    return min(len(a), len(b))
