"""The stream of token windows that training reads: the same for the same data, seed and window, from any place in it.

Letters: T tokens of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from openm3.errors import InputError
from openm3.text.tokenizer import Tokenizer
from openm3.train.corpus import Corpus

# Tokens by which published models separate the documents of their training, the most usual first.
_SEPARATORS = ("<|endoftext|>", "<|end_of_text|>", "</s>")


@dataclass(frozen=True, kw_only=True)
class Window:
    """Tokens of one document after the other.

    Attributes:
        ids_T: int64.
        lengths: of the parts of documents that it holds, which add up to it; the first part may be the rest of a
            document, the last one the beginning of one.
        documents: which documents of the corpus these are.
    """

    ids_T: NDArray[np.int64]
    lengths: tuple[int, ...]
    documents: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a stream stands.

    Attributes:
        num_windows: how many came before.
        epoch: how often all documents have been read.
        document: the place in this epoch's order of the document that comes next.
        offset: how many of its tokens have come.
    """

    num_windows: int = 0
    epoch: int = 0
    document: int = 0
    offset: int = 0


class Stream(Protocol):
    """What training reads: `Windows`, or several of them in turn.

    Attributes:
        corpus: the documents.
        window: tokens of a window.
    """

    corpus: Corpus
    window: int

    def __iter__(self) -> Iterator[Window]: ...

    @property
    def num_windows(self) -> int:
        """How many have come."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as JSON has it."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        ...


class Windows:
    """An endless stream of windows of equal length, packed without gaps; each epoch has an order of its own.

        corpus, held_out = Corpus.read(["./src"]).split(0.05)
        windows = Windows(corpus, llm.encode, 4096, end_id=document_end(llm.tokenizer), seed=0)
        for window in windows: ...
        later.seek(windows.position)   # goes on exactly there

    Args:
        corpus: the documents.
        encode: a document's tokens, with the token that begins one where the model has such.
        window: tokens of a window.
        end_id: the token that ends a document; None for none.
        seed: of the order.
        epochs: after so many the stream ends, and what is left and shorter than a window is dropped; None never.

    Attributes:
        corpus, window, seed: as given.
        position: of the next window.
    """

    def __init__(
        self,
        corpus: Corpus,
        encode: Callable[[str], list[int]],
        window: int,
        *,
        end_id: int | None = None,
        seed: int = 0,
        epochs: int | None = None,
    ) -> None:
        if window < 2:
            raise InputError("window", f"must be at least 2 tokens, got {window}")
        self.corpus, self.window, self.seed, self.position = corpus, window, seed, Position()
        self._encode, self._end, self._epochs = encode, [] if end_id is None else [end_id], epochs
        self._order: tuple[int, NDArray[np.intp]] | None = None  # an epoch and its order
        self._held: tuple[int, NDArray[np.int64]] | None = None  # a document and its tokens

    def __iter__(self) -> Iterator[Window]:
        return self

    def __next__(self) -> Window:
        """The next window.

        Raises:
            InputError: all documents together are shorter than one, or a file has changed.
        """
        at, parts, documents, room = self.position, list[NDArray[np.int64]](), list[int](), self.window
        while room:
            if at.document == len(self.corpus):
                if self.position == Position():
                    raise InputError(
                        "data", f"holds {self.window - room:,} tokens, less than one window of {self.window:,}"
                    )
                if at.epoch + 1 == self._epochs:
                    raise StopIteration
                at = replace(at, epoch=at.epoch + 1, document=0, offset=0)
            document, ids = self._tokens(at)
            part = ids[at.offset : at.offset + room]
            if len(part):
                parts.append(part)
                documents.append(document)
                room -= len(part)
            stop = at.offset + len(part)
            is_read = stop == len(ids)
            at = replace(at, document=at.document + is_read, offset=0 if is_read else stop)
        # At once and last, so that whoever interrupts finds the place before or behind a whole window.
        self.position = replace(at, num_windows=at.num_windows + 1)
        return Window(ids_T=np.concatenate(parts), lengths=tuple(map(len, parts)), documents=tuple(documents))

    def seek(self, position: Position) -> Self:
        """Goes on from a position of the same stream."""
        self.position = position
        return self

    @property
    def num_windows(self) -> int:
        """How many have come."""
        return self.position.num_windows

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as JSON has it."""
        return asdict(self.position)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self.seek(Position(**state))

    def _tokens(self, at: Position) -> tuple[int, NDArray[np.int64]]:
        if self._order is None or self._order[0] != at.epoch:
            self._order = at.epoch, self.corpus.order(self.seed, at.epoch)
        document = int(self._order[1][at.document])
        if self._held is None or self._held[0] != document:
            ids = [*self._encode(self.corpus.text(document)), *self._end]
            self._held = document, np.array(ids, dtype=np.int64)
        return self._held


class Interleaved:
    """Several streams in turn, so that windows that come together are of different documents.

    Args:
        streams: of the same documents in different orders, with windows of one length.

    Attributes:
        corpus, window: of the streams.
        num_windows: how many have come.
    """

    def __init__(self, streams: Sequence[Windows]) -> None:
        self.corpus, self.window, self.num_windows = streams[0].corpus, streams[0].window, 0
        self._streams = streams

    def __iter__(self) -> Iterator[Window]:
        return self

    def __next__(self) -> Window:
        window = next(self._streams[self.num_windows % len(self._streams)])
        self.num_windows += 1
        return window

    def state_dict(self) -> dict[str, Any]:
        """Where they stand, as JSON has it."""
        return {"num_windows": self.num_windows, "streams": [stream.state_dict() for stream in self._streams]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self.num_windows = state["num_windows"]
        for stream, its in zip(self._streams, state["streams"], strict=True):
            stream.load_state_dict(its)


def document_end(tokenizer: Tokenizer) -> int | None:
    """The token that separates documents: by its name, else the first that ends an answer, where there is one."""
    named = (tokenizer.token_id(name) for name in (*_SEPARATORS, tokenizer.eos_token))
    return next((i for i in named if i in tokenizer.special_ids), None)
