"""The documents of training: found, counted, hashed and split, and read one at a time.

Letters: N documents.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from openm3.context.files import SkippedFile, find, why_none
from openm3.errors import InputError
from openm3.train.sources import Source, UnfitError, open_source

# What lies beside the tables that `datasets` saves and is no text.
_ABOUT_TABLES = {"state.json", "dataset_info.json", "dataset_dict.json"}

_DOCUMENT = np.dtype([("source", "i4"), ("start", "i8"), ("length", "i8"), ("num_bytes", "i8"), ("digest", "u8")])


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Texts on this disk. Memory holds where they are (36 bytes a document), not what they say.

    Attributes:
        skipped: files of folders that were not taken, and why.
        num_repeated: documents that say exactly what another one says; each text is there once.
    """

    sources: tuple[tuple[str, Source], ...]
    documents_N: NDArray[np.void]
    skipped: tuple[SkippedFile, ...] = ()
    num_repeated: int = 0

    @classmethod
    def read(cls, paths: Sequence[str | Path], *, text_key: str = "text") -> Corpus:
        """Reads everything once.

        A folder is walked as by `--context`: without what .gitignore leaves out. Of its files those that are no text
        are skipped; a file that is named itself must be one.

        Args:
            paths: files, folders, or globs; text and code, JSON lines, Parquet, or folders that `datasets` saved.
            text_key: where a line of JSON or a table has its text.

        Raises:
            InputError: a path does not exist, a named file is no text, or there is no text at all.
        """
        named = {os.path.abspath(os.path.expanduser(path)) for path in paths}
        sources: list[tuple[str, Source]] = []
        rows: list[NDArray[np.void]] = []
        skipped: list[SkippedFile] = []
        try:
            for shown, path, reason in find(paths):
                try:
                    if reason:
                        raise UnfitError(reason)
                    source, found = _scan(Path(path), text_key, number=len(sources))
                    rows.append(found)
                    sources.append((shown, source))
                except UnfitError as unfit:
                    if path in named:
                        raise InputError("data", f"{shown} is {unfit}") from None
                    skipped.append(SkippedFile(shown, str(unfit)))
        except InputError as error:
            raise InputError("data", error.message) from None
        if not sources:
            raise InputError("data", f"no text in {', '.join(map(str, paths))}: {why_none(skipped)}")
        documents_N = np.concatenate(rows)
        first = np.sort(np.unique(documents_N["digest"], return_index=True)[1])
        num_repeated = len(documents_N) - len(first)
        return cls(
            sources=tuple(sources),
            documents_N=documents_N[first],
            skipped=tuple(skipped),
            num_repeated=num_repeated,
        )

    def __len__(self) -> int:
        """How many documents."""
        return len(self.documents_N)

    @property
    def num_bytes(self) -> int:
        """Of all texts in UTF-8."""
        return int(self.documents_N["num_bytes"].sum())

    @property
    def digest(self) -> str:
        """16 hex digits of what all documents say, wherever they lie and in whatever order."""
        return xxhash.xxh3_64(np.sort(self.documents_N["digest"]).tobytes()).hexdigest()

    def name(self, document: int) -> str:
        """The file that a document lies in."""
        return self.sources[self.documents_N[document]["source"]][0]

    def text(self, document: int) -> str:
        """What a document says.

        Raises:
            InputError: its file has changed since it was read.
        """
        row = self.documents_N[document]
        shown, source = self.sources[row["source"]]
        try:
            text = source.text(int(row["start"]), int(row["length"]))
        except (UnfitError, OSError, IndexError):
            text = ""
        if xxhash.xxh3_64_intdigest(text.encode()) != int(row["digest"]):
            raise InputError("data", f"{shown} has changed while it was being read; begin again with what it says now")
        return text

    def split(self, share: float) -> tuple[Corpus, Corpus]:
        """What to train on and what to hold out, document by document.

        Which ones are held out follows from what they say alone, so that the same text is on the same side in every
        run; texts that are added later move few.

        Args:
            share: of the bytes to hold out, at least one document of them; 0 holds out nothing.

        Raises:
            InputError: the share is not from 0 to below 1, or there is only one document.
        """
        if not 0 <= share < 1:
            raise InputError("held_out", f"must be a share from 0 to below 1, got {share}")
        if share == 0:
            return self, replace(self, documents_N=self.documents_N[:0])
        if len(self) < 2:
            raise InputError("held_out", "the data is one document, which can't be split; give more, or hold out 0")
        order_N = np.argsort(self.documents_N["digest"], kind="stable")
        reached_N = np.cumsum(self.documents_N["num_bytes"][order_N])
        count = min(int(np.searchsorted(reached_N, share * reached_N[-1])) + 1, len(self) - 1)
        held_out_N = np.zeros(len(self), dtype=bool)
        held_out_N[order_N[:count]] = True
        train = replace(self, documents_N=self.documents_N[~held_out_N])
        return train, replace(self, documents_N=self.documents_N[held_out_N])

    def among(self, other: Corpus) -> Corpus:
        """Those documents that another corpus has too."""
        has_N = np.isin(self.documents_N["digest"], other.documents_N["digest"])
        return replace(self, documents_N=self.documents_N[has_N])

    def order(self, seed: int, epoch: int) -> NDArray[np.intp]:
        """The documents in an order that follows from seed, epoch and what they say."""
        # The finaliser of splitmix64 mixes what is the same in none of them.
        x_N = self.documents_N["digest"] ^ np.uint64(xxhash.xxh3_64_intdigest(f"{seed} {epoch}".encode()))
        x_N = (x_N ^ (x_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x_N = (x_N ^ (x_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.argsort(x_N ^ (x_N >> np.uint64(31)), kind="stable")


def _scan(path: Path, text_key: str, *, number: int) -> tuple[Source, NDArray[np.void]]:
    """A file and its documents, as those of source `number`."""
    beside = path.parent.iterdir() if path.name in _ABOUT_TABLES else ()
    if any(each.suffix == ".arrow" or (each / "state.json").is_file() for each in beside):
        raise UnfitError("what datasets notes beside its tables")
    source = open_source(path, text_key)
    rows: list[tuple[int, int, int, int, int]] = []
    try:
        for start, length, text in source.scan():
            data = text.encode()
            if data.strip():
                rows.append((number, start, length, len(data), xxhash.xxh3_64_intdigest(data)))
    except OSError as error:
        raise UnfitError(f"unreadable: {error.strerror}") from error
    if not rows:
        raise UnfitError("empty")
    return source, np.array(rows, dtype=_DOCUMENT)
