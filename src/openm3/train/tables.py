"""Tables with a column of texts: Parquet files, and the Arrow files that `datasets` saves."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from openm3.train.sources import UnfitError, checked


class Table:
    """A row is a document; its start is the row's number and its length 1.

    Rows are read a group at a time, as Parquet stores them; an Arrow file is mapped and is one group.
    """

    def __init__(self, path: Path, text_key: str) -> None:
        self.path, self.text_key = path, text_key
        self._groups: list[int] = []  # the first row of each group, and one behind the last
        self._held: tuple[int, Any] = (-1, None)

    def scan(self) -> Iterator[tuple[int, int, str]]:
        for group in range(len(self._open())):
            for row, value in enumerate(self._column(group), start=self._groups[group]):
                text = value.as_py()
                if text is not None:
                    yield row, 1, checked(text, f"in row {row}")

    def text(self, start: int, length: int) -> str:
        self._open()
        group = bisect_right(self._groups, start) - 1
        return str(self._column(group)[start - self._groups[group]].as_py())

    def _open(self) -> range:
        """The groups."""
        if not self._groups:
            try:
                self._file = _read_arrow(self.path) if self.path.suffix == ".arrow" else _Parquet(self.path)
            except (pyarrow.ArrowException, OSError) as error:
                raise UnfitError(f"no table that can be read: {error}") from None
            schema = self._file.schema
            kind = schema.field(self.text_key).type if self.text_key in schema.names else None
            if kind not in (pyarrow.string(), pyarrow.large_string()):
                raise UnfitError(f"without a column of texts named {self.text_key!r}")
            self._groups = list(accumulate(self._file.sizes, initial=0))
        return range(len(self._groups) - 1)

    def _column(self, group: int) -> Any:
        if self._held[0] != group:
            self._held = group, self._file.column(group, self.text_key)
        return self._held[1]


class _Parquet:
    def __init__(self, path: Path) -> None:
        self._file = pyarrow.parquet.ParquetFile(path, memory_map=True)
        self.schema = self._file.schema_arrow
        about = self._file.metadata
        self.sizes = [about.row_group(group).num_rows for group in range(about.num_row_groups)]

    def column(self, group: int, name: str) -> Any:
        return self._file.read_row_group(group, columns=[name]).column(name)


class _Arrow:
    def __init__(self, table: Any) -> None:
        self._table, self.schema, self.sizes = table, table.schema, [table.num_rows]

    def column(self, group: int, name: str) -> Any:
        return self._table.column(name)


def _read_arrow(path: Path) -> _Arrow:
    """`datasets` writes Arrow streams; others write Arrow files."""
    mapped = pyarrow.memory_map(str(path))
    try:
        return _Arrow(pyarrow.ipc.open_stream(mapped).read_all())
    except pyarrow.ArrowInvalid:
        return _Arrow(pyarrow.ipc.open_file(mapped).read_all())
