"""The files that training reads: plain text, JSON lines, tables of Parquet and Arrow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

PIECE_BYTES = 1 << 20  # a longer text is cut at the end of the line that this falls in


class UnfitError(Exception):
    """Why a file can't be read; completes a sentence that begins with its name and "is"."""


class Source(Protocol):
    """A file of documents. A document is found again by two numbers, `start` and `length`."""

    def scan(self) -> Iterator[tuple[int, int, str]]:
        """Each document's start, length and text; what has no text is left out.

        Raises:
            UnfitError: the file isn't what its name says.
        """
        ...

    def text(self, start: int, length: int) -> str:
        """One document."""
        ...


def open_source(path: Path, text_key: str) -> Source:
    """The file as its name's end says: `.jsonl`, `.ndjson`, `.parquet`, `.arrow`, else text."""
    if path.suffix in (".jsonl", ".ndjson"):
        return Lines(path, text_key)
    if path.suffix in (".parquet", ".arrow"):
        from openm3.train.tables import Table  # brings pyarrow

        return Table(path, text_key)
    return Text(path)


class Text:
    """UTF-8 text: one document, or several if it is long."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def scan(self) -> Iterator[tuple[int, int, str]]:
        start = 0
        with open(self.path, "rb") as file:
            while piece := file.read(PIECE_BYTES):
                piece += file.readline()
                if b"\0" in piece:
                    raise UnfitError("binary")
                yield start, len(piece), _decode(piece)
                start += len(piece)

    def text(self, start: int, length: int) -> str:
        return _decode(_bytes_at(self.path, start, length))


class Lines:
    """One JSON object a line, with its text under a key."""

    def __init__(self, path: Path, text_key: str) -> None:
        self.path, self.text_key = path, text_key

    def scan(self) -> Iterator[tuple[int, int, str]]:
        start = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield start, len(line), self._parse(line, f"in line {number}")
                start += len(line)

    def text(self, start: int, length: int) -> str:
        return self._parse(_bytes_at(self.path, start, length), f"at byte {start}")

    def _parse(self, line: bytes, where: str) -> str:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise UnfitError(f"not JSON {where}") from None
        text = value.get(self.text_key) if isinstance(value, dict) else None
        if not isinstance(text, str):
            raise UnfitError(f"without a text under {self.text_key!r} {where}")
        return checked(text, where)


def checked(text: str, where: str) -> str:
    """The text, which can be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UnfitError(f"not Unicode text {where}") from None
    return text


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnfitError("not UTF-8") from None


def _bytes_at(path: Path, start: int, length: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(length)
