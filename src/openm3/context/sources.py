"""Which files and lines the tokens of a prompt come from, found again in the prompt's own bytes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openm3.context.files import Collection


@dataclass(frozen=True)
class SourceSpan:
    """Tokens of a prompt that come from one text.

    Attributes:
        path: the file's, as the model sees it; None for text that is no file.
        first_line, last_line: lines of the file, of the message where there is one, else of the whole prompt; from 1.
            A line ends with a line feed.
        start, stop: tokens `start` to `stop - 1` of the prompt. A token that holds the end of one text and the
            beginning of the next is in both of their spans.
        message: index of the message that the text is, for a conversation without files.
    """

    path: str | None
    first_line: int
    last_line: int
    start: int
    stop: int
    message: int | None = None

    @property
    def name(self) -> str:
        """The text in words: a path, a message, or the prompt."""
        return self.path or ("prompt" if self.message is None else f"message {self.message}")


@dataclass(frozen=True)
class Passage:
    """A text that a prompt was made from.

    Attributes:
        text: as it was given.
        path: of the file that it is.
        message: index of the message that it is.
        marker: what stands right before it in the prompt, and is no part of it.
        first_line: number of its first line.
    """

    text: str
    path: str | None = None
    message: int | None = None
    marker: str = ""
    first_line: int = 1


@dataclass(frozen=True)
class _Region:
    """Bytes `start` to `stop - 1` of the prompt; `passage` is None between passages, `line` the first one's number."""

    start: int
    stop: int
    passage: Passage | None
    line: int


class SourceMap:
    """Says which text a range of a prompt's tokens comes from.

    The tokens of a byte-level BPE, put together, are the exact bytes of the text, so each passage is looked for in
    the prompt's bytes. One that isn't there byte for byte (a normalising tokenizer or template changed it), or more
    than once, is in `missing` and its tokens have no path: nothing is guessed. The work is done at the first question.

    Args:
        ids: the prompt's tokens.
        token_bytes: the exact bytes of one token, as `Tokenizer.token_bytes`.
        passages: the texts, in the order in which they stand in the prompt.

    Attributes:
        token_bytes: as given.
    """

    def __init__(
        self, ids: Sequence[int], token_bytes: Callable[[int], bytes], passages: Iterable[Passage] = ()
    ) -> None:
        self._ids, self.token_bytes = ids, token_bytes
        self.passages = tuple(passages)

    @classmethod
    def of_files(cls, ids: Sequence[int], token_bytes: Callable[[int], bytes], files: Collection) -> SourceMap:
        """The map of a prompt that holds `files.render()`."""
        marked = zip(files.markers(), files.files, strict=True)
        return cls(ids, token_bytes, [Passage(file.text, file.path, marker=marker) for marker, file in marked])

    @classmethod
    def of_messages(
        cls, ids: Sequence[int], token_bytes: Callable[[int], bytes], messages: Sequence[Mapping[str, Any]]
    ) -> SourceMap:
        """The map of a conversation: its parts are known by their message."""
        return cls(ids, token_bytes, [part for i, message in enumerate(messages) for part in _parts(message, i)])

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self._ids)

    @cached_property
    def missing(self) -> tuple[Passage, ...]:
        """The passages that are not in the prompt exactly once, byte for byte."""
        placed = {id(region.passage) for region in self._regions}
        return tuple(passage for passage in self.passages if id(passage) not in placed)

    @cached_property
    def files_end(self) -> int | None:
        """The first token that holds something behind the last file; None where no file is found."""
        ends = [region.stop for region in self._regions if region.passage is not None and region.passage.path]
        return bisect_right(self._ends, ends[-1]) if ends else None

    def locate(self, start: int, stop: int) -> list[SourceSpan]:
        """The texts of tokens `start` to `stop - 1`, in order; together they cover all bytes of these tokens.

        Raises:
            ValueError: the range isn't within the prompt.
        """
        first, last = self._bytes_of(start, stop)
        overlapping = slice(bisect_right(self._region_stops, first), bisect_left(self._region_starts, last))
        regions = self._regions[overlapping] if first < last else []
        return [self._span(region, max(first, region.start), min(last, region.stop)) for region in regions]

    def text(self, start: int, stop: int) -> str:
        """The text of tokens `start` to `stop - 1`; a character that is cut at an end becomes U+FFFD."""
        first, last = self._bytes_of(start, stop)
        return self._data[first:last].decode("utf-8", "replace")

    def _span(self, region: _Region, first: int, last: int) -> SourceSpan:
        passage = region.passage
        first_line = region.line + self._data.count(b"\n", region.start, first)
        last_line = first_line + self._data.count(b"\n", first, last - 1)
        start, stop = bisect_right(self._ends, first), bisect_left(self._ends, last) + 1
        path, message = (None, None) if passage is None else (passage.path, passage.message)
        return SourceSpan(path, first_line, last_line, start, stop, message)

    def _bytes_of(self, start: int, stop: int) -> tuple[int, int]:
        if not 0 <= start <= stop <= len(self._ids):
            raise ValueError(f"tokens {start} to {stop} are not within the prompt's {len(self._ids)}")
        return (self._ends[start - 1] if start else 0), (self._ends[stop - 1] if stop else 0)

    @cached_property
    def _data(self) -> bytes:
        return b"".join(map(self.token_bytes, self._ids))

    @cached_property
    def _ends(self) -> list[int]:
        """Where in the bytes each token ends."""
        return list(accumulate(len(self.token_bytes(token)) for token in self._ids))

    @cached_property
    def _region_starts(self) -> list[int]:
        return [region.start for region in self._regions]

    @cached_property
    def _region_stops(self) -> list[int]:
        return [region.stop for region in self._regions]

    @cached_property
    def _regions(self) -> list[_Region]:
        """The whole prompt, in order."""
        placed = _place_all(self._data, self.passages) or _place_each(self._data, self.passages)
        regions: list[_Region] = []
        end, line = 0, 1
        for region in [*placed, _Region(len(self._data), len(self._data), None, 0)]:
            if end < region.start:
                regions.append(_Region(end, region.start, None, line))
            if region.start < region.stop:
                regions.append(region)
            line += self._data.count(b"\n", end, region.stop)
            end = region.stop
        return regions


def _place_all(data: bytes, passages: Sequence[Passage]) -> list[_Region] | None:
    """Where the passages are, if they stand one right after the other, and that once; the usual case of files."""
    pieces = [(passage.marker.encode(), passage.text.encode()) for passage in passages]
    at = _find_once(data, b"".join(marker + text for marker, text in pieces), 0)
    if at is None:
        return None
    regions = []
    for passage, (marker, text) in zip(passages, pieces, strict=True):
        at += len(marker)
        regions.append(_Region(at, at + len(text), passage, passage.first_line))
        at += len(text)
    return regions


def _place_each(data: bytes, passages: Sequence[Passage]) -> list[_Region]:
    """Where each passage is that is found once in what follows those before it."""
    regions, end = [], 0
    for passage in passages:
        marker = passage.marker.encode()
        stripped = passage.text.strip()  # as templates often do with messages
        before = passage.text[: passage.text.find(stripped)].count("\n")
        for text, line in ((passage.text, passage.first_line), (stripped, passage.first_line + before)):
            at = _find_once(data, marker + text.encode(), end)
            if at is not None:
                start = at + len(marker)
                end = start + len(text.encode())
                regions.append(_Region(start, end, passage, line))
                break
    return regions


def _find_once(data: bytes, text: bytes, start: int) -> int | None:
    at = data.find(text, start) if text else -1
    return None if at < 0 or data.find(text, at + 1) >= 0 else at


def _parts(message: Mapping[str, Any], index: int) -> list[Passage]:
    """The texts of a message; their lines are counted as if each began on a new line."""
    content = message.get("content")
    given = [{"text": content}] if isinstance(content, str) else content
    parts, line = [], 1
    for part in given if isinstance(given, Sequence) else ():
        text = part.get("text") if isinstance(part, Mapping) else None
        if isinstance(text, str):
            parts.append(Passage(text, message=index, first_line=line))
            line += text.count("\n") + 1
    return parts
