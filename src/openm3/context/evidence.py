"""Which parts of a prompt an answer was read from, by the attention of the tokens that made it.

A token of the answer spreads its softmax mass over all blocks that it reads. Most of it goes where it always goes, to
the first block (an attention sink) and the newest ones, whatever is said; so what counts is what a block gets beyond
its usual share. With m the mass of a block for one token and u the median of its mass over the tokens of the answer, a
block scores

    mean over the sentence's tokens of max(0, m * log((m + e) / (u + e))),   e = 0.001

the terms of the relative entropy between what a token read and what the answer usually reads. The first block is no
reference, nor is a block with the question in it: anything behind the last file, or without files the last two blocks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from openm3.context.importance import Masses
from openm3.context.sources import SourceMap, SourceSpan

_SMALLEST = 1e-3  # mass below it is noise
_FEW_TOKENS = 4  # of an answer with less than these nothing is usual
_MOST_REFERENCES = 3  # of a sentence
_SMALLEST_WEIGHT = 0.1  # of a reference; where there are many blocks,
_OF_MEAN = 2.5  # this many times the mean weight is enough
_OF_BEST = 1 / 3  # and this share of the best one's is needed
_SENTENCE_END = re.compile(rb"[.!?][\"')\]]*(?=\s)\s*|\n\s*")


@dataclass(frozen=True)
class Reference:
    """A block of the prompt that a sentence was read from.

    Attributes:
        weight: the block's share of the sentence's score.
        mass: the mean share of the softmax mass that it got while the sentence was generated.
        start, stop: the block's tokens in the prompt.
        spans: its files and lines; what is no file only where there is none.
        text: what it says.
    """

    weight: float
    mass: float
    start: int
    stop: int
    spans: tuple[SourceSpan, ...]
    text: str

    def __str__(self) -> str:
        return ", ".join(f"{span.name}:{span.first_line}-{span.last_line}" for span in self.spans)


@dataclass(frozen=True)
class Sentence:
    """A sentence or line of the answer, its tokens `start` to `stop - 1`, and what it was read from, best first."""

    text: str
    start: int
    stop: int
    references: tuple[Reference, ...]


@dataclass(frozen=True)
class Evidence:
    """What an answer was read from.

    Attributes:
        sentences: of all that was generated, in order.
        observed: what it is made from, token by token.
        output_ids: the generated tokens.
    """

    sentences: tuple[Sentence, ...]
    observed: Observed = field(repr=False, compare=False)
    output_ids: tuple[int, ...] = field(repr=False, compare=False)

    def references(self) -> list[Reference]:
        """Each block once, with the largest of its weights, in the order of the sentences."""
        best: dict[int, Reference] = {}
        for sentence in self.sentences:
            for reference in sentence.references:
                known = best.setdefault(reference.start, reference)
                if reference.weight > known.weight:
                    best[reference.start] = reference
        return list(best.values())


class Observed:
    """What the tokens of one answer read, gathered while it is generated.

    Args:
        sources: of the prompt.
        block_size: tokens of a block.
        hidden_ids: control tokens, which are no text.

    Attributes:
        readings: for each generated token the share of the softmax mass of every block of prompt and answer.
    """

    def __init__(self, sources: SourceMap, block_size: int, hidden_ids: Collection[int] = ()) -> None:
        self.sources, self.block_size, self._hidden_ids = sources, block_size, hidden_ids
        self.readings: list[Masses] = []

    def add(self, mass_B: Masses) -> None:
        """What was read for the next token."""
        self.readings.append(mass_B)

    def pieces(self, output_ids: Sequence[int]) -> list[bytes]:
        """The bytes of each generated token."""
        return [b"" if token in self._hidden_ids else self.sources.token_bytes(token) for token in output_ids]

    def mass_TB(self, num_tokens: int) -> Masses:
        """The first readings as one array: of each token, the blocks that hold tokens of the prompt."""
        num_blocks = -(-self.sources.num_tokens // self.block_size)
        mass_TB = np.zeros((num_tokens, num_blocks), np.float32)
        for row_B, mass_B in zip(mass_TB, self.readings, strict=False):
            row_B[: len(mass_B)] = mass_B[:num_blocks]
        return mass_TB

    def evidence(self, output_ids: Sequence[int]) -> Evidence:
        """The references of an answer's sentences."""
        pieces, mass_TB = self.pieces(output_ids), self.mass_TB(len(output_ids))
        lift_TB = self.lift_TB(mass_TB)
        sentences = []
        for start, stop, text in _sentences(pieces):
            score_B = lift_TB[start:stop].mean(0)
            sentences.append(Sentence(text, start, stop, self._references(score_B, mass_TB[start:stop].mean(0))))
        return Evidence(tuple(sentences), self, tuple(output_ids))

    def lift_TB(self, mass_TB: Masses) -> Masses:
        """What stands out, by token and block of the prompt."""
        return lift(mass_TB, self._usable())

    def _usable(self) -> range:
        """The blocks that may be references."""
        end = self.sources.files_end
        if end is not None:
            return range(1, end // self.block_size)
        return range(1, -(-self.sources.num_tokens // self.block_size) - 2)

    def _references(self, score_B: Masses, mass_B: Masses) -> tuple[Reference, ...]:
        total = float(score_B.sum()) or 1.0
        least = max(
            total * min(_SMALLEST_WEIGHT, _OF_MEAN / max(len(score_B), 1)), _OF_BEST * float(score_B.max(initial=0))
        )
        best = sorted(range(len(score_B)), key=lambda block: (-score_B[block], block))[:_MOST_REFERENCES]
        return tuple(
            self.reference(block, float(score_B[block]) / total, float(mass_B[block]))
            for block in best
            if score_B[block] >= least and score_B[block] > 0
        )

    def reference(self, block: int, weight: float, mass: float) -> Reference:
        """A block of the prompt, with its files and lines."""
        start, stop = block * self.block_size, min((block + 1) * self.block_size, self.sources.num_tokens)
        spans = self.sources.locate(start, stop)
        named = [span for span in spans if span.path or span.message is not None] or spans
        return Reference(weight, mass, start, stop, tuple(named), self.sources.text(start, stop))


def lift(mass_TB: Masses, usable: range) -> Masses:
    """The score of every token and block, as the top of this file says; 0 outside the usable blocks."""
    num_tokens, num_blocks = mass_TB.shape
    usual_B = np.median(mass_TB, axis=0) if num_tokens >= _FEW_TOKENS else np.zeros(num_blocks, np.float32)
    score_TB = np.maximum(mass_TB * np.log((mass_TB + _SMALLEST) / (usual_B + _SMALLEST)), 0)
    score_TB[:, : usable.start] = score_TB[:, max(usable.stop, 0) :] = 0
    return score_TB


def _sentences(pieces: Sequence[bytes]) -> Iterator[tuple[int, int, str]]:
    """First and last token and text of every sentence that has any; a token belongs to where it begins."""
    data = b"".join(pieces)
    begins = [0, *accumulate(map(len, pieces))][:-1]
    first = 0
    for end in [*(match.end() for match in _SENTENCE_END.finditer(data)), len(data)]:
        tokens = [i for i, begin in enumerate(begins) if first <= begin < end and pieces[i]]
        text = data[first:end].decode("utf-8", "replace").strip()
        if tokens and text:
            yield tokens[0], tokens[-1] + 1, text
            first = end
