"""Which beginnings of prompts a replica was given, so that it probably still has their keys and values."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from openm3.engine.prompt import Prompt

BLOCK = 128  # tokens: as in a page of the engine's cache


def digests(prompt: Prompt | Sequence[int]) -> list[bytes]:
    """A digest for each full block of a prompt, of everything up to its end.

    What images show is in the first one: other pixels share nothing, as in the engine's own prefix cache.
    """
    ids, media = (prompt.ids, prompt.media) if isinstance(prompt, Prompt) else (prompt, ())
    state = hashlib.blake2b(b"".join(patches.digest for patches in media), digest_size=16)
    return list(_chain(state, ids))


def _chain(state: hashlib.blake2b, ids: Sequence[int]) -> Iterator[bytes]:
    for start in range(0, len(ids) - BLOCK + 1, BLOCK):
        state.update(array("q", ids[start : start + BLOCK]).tobytes())
        yield state.digest()


class Prefixes:
    """The blocks that a replica has read, as many as its cache can hold; the longest unused are forgotten first.

    It is a guess: only the replica knows. A wrong one costs time and never changes an answer.
    """

    def __init__(self) -> None:
        self._blocks: OrderedDict[bytes, None] = OrderedDict()

    def num_known(self, chain: Sequence[bytes]) -> int:
        """How many tokens of a prompt's beginning are known, by the digests of its blocks."""
        known = next((i for i, digest in enumerate(chain) if digest not in self._blocks), len(chain))
        return known * BLOCK

    def add(self, chain: Sequence[bytes], capacity: int) -> None:
        """The replica reads a prompt; `capacity` is how many blocks it can hold."""
        for digest in reversed(chain):  # so that a block is never forgotten before those that need it
            self._blocks[digest] = None
            self._blocks.move_to_end(digest)
        while len(self._blocks) > capacity:
            self._blocks.popitem(last=False)

    def clear(self) -> None:
        """The replica has lost its memory."""
        self._blocks.clear()
