"""What a request begins with. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openm3.context.sources import SourceMap
from openm3.text.dialect import PLAIN, Dialect
from openm3.text.parse import AnswerParser

if TYPE_CHECKING:
    from openm3.model.vision_patches import Patches


@dataclass(frozen=True, eq=False)
class Prompt:
    """Tokens, what the model sees among them, and how the answer is to be read.

    Attributes:
        ids: the tokens.
        media: images and videos, in their order. All of them have the same placeholder ids: what compares prompts by
            their tokens, as a cache of prefixes does, has to take each `Patches.digest` along.
        places: where in `ids` the embeddings of `media` belong, one after the other; ascending.
        dialect: the markers that the answer may hold.
        thinking: `ids` end within thinking, and the answer goes on there.
        tools: what the model was offered, as in an API request.
        sources: which files, messages and lines the tokens come from; None where nobody has said.
        head, tail: how many tokens of its beginning (the system prompt) and of its end (the question) are kept when the
            window is compacted.
        dropped: spans `(start, stop)` of `ids` that are not read, as if they weren't there; ascending and apart. Places
            and sources stay those of all of `ids`.
    """

    ids: Sequence[int]
    media: tuple[Patches, ...] = ()
    places: Sequence[int] = ()
    dialect: Dialect = PLAIN
    thinking: bool = False
    tools: Sequence[Mapping[str, Any]] = ()
    sources: SourceMap | None = None
    head: int = 0
    tail: int = 0
    dropped: Sequence[tuple[int, int]] = ()

    @property
    def num_left(self) -> int:
        """Tokens that are read."""
        return len(self.ids) - sum(stop - start for start, stop in self.dropped)

    def parser(self) -> AnswerParser:
        """A parser for one answer to this prompt."""
        return AnswerParser(self.dialect, thinking=self.thinking, tools=self.tools)
