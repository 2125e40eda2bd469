"""Reads the body of an upload as it arrives: short fields into memory, the file straight to where it belongs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from openm3.errors import InputError

_MAX_FIELD_BYTES, _MAX_HEADER_BYTES = 1000, 8000
_MAX_FIELDS = 16


class Form:
    """What was read.

    Args:
        write: gets the bytes of the part named "file".

    Attributes:
        fields: the other parts.
        filename: as the client has it; None where no file came.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._header = self._value = b""
        self._headers: dict[str, bytes] = {}
        self._num_header_bytes = 0
        self._name = ""
        self._text = b""
        self._ended = False

    async def read(self, content_type: str, body: AsyncIterator[bytes]) -> Form:
        """Reads a whole body.

        Raises:
            InputError: it is no form, or a field is wrong.
        """
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not 0 < len(boundary) <= 70:
            raise InputError("file", "must be sent as a part of multipart/form-data")
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._add_header,
                "on_header_value": self._add_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._add_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )
        try:
            async for piece in body:
                if piece:
                    parser.write(piece)
            parser.finalize()
        except MultipartParseError as error:
            raise InputError("file", f"the form can't be read: {error}") from error
        if not self._ended:
            raise InputError("file", "the form ends within a part")
        if self.filename is None:
            raise InputError("file", "is missing; send it as a part with a filename")
        return self

    def _begin(self) -> None:
        self._headers, self._name, self._text = {}, "", b""
        self._num_header_bytes = 0

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self._header += self._counted(data[start:end])

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._counted(data[start:end])

    def _counted(self, data: bytes) -> bytes:
        self._num_header_bytes += len(data)
        if self._num_header_bytes > _MAX_HEADER_BYTES:
            raise InputError("file", f"the headers of a part are more than {_MAX_HEADER_BYTES} bytes")
        return data

    def _end_header(self) -> None:
        self._headers[self._header.decode("latin-1").lower()] = self._value
        self._header = self._value = b""

    def _end_headers(self) -> None:
        kind, options = parse_options_header(self._headers.get("content-disposition", b""))
        self._name = options.get(b"name", b"").decode(errors="replace")
        if kind != b"form-data" or not self._name:
            raise InputError("file", "a part of the form has no name")
        is_file = self._name == "file"
        if (self.filename is not None if is_file else self._name in self.fields) or len(self.fields) >= _MAX_FIELDS:
            raise InputError(self._name[:64], "is there twice" if len(self.fields) < _MAX_FIELDS else "is one too many")
        if is_file:
            self.filename = options.get(b"filename", b"file").decode(errors="replace")

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file":
            self._write(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > _MAX_FIELD_BYTES:
            raise InputError(self._name[:64], f"is more than {_MAX_FIELD_BYTES} bytes")

    def _end_part(self) -> None:
        if self._name != "file":
            self.fields[self._name] = self._text.decode(errors="replace")

    def _end(self) -> None:
        self._ended = True
