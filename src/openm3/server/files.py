"""Uploaded files on disk, each caller's apart.

    FOLDER/CALLER/file-ID        what was uploaded
    FOLDER/CALLER/file-ID.json   what is known of it; written last, so what has it is whole

Nothing in a path comes from a client: ids are made here and have one form.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from openm3.errors import InputError
from openm3.server.errors import ApiError
from openm3.server.schema.files import File

_PART_S = 86_400  # after which an upload that was cut is surely not going on
_MAX_NAME_BYTES = 255


class FileStore:
    """The files of all callers.

    Args:
        folder: where they are; it need not be there.
        max_file_bytes: of one file.
        max_bytes: of all files of a caller.
    """

    def __init__(self, folder: Path, *, max_file_bytes: int, max_bytes: int) -> None:
        self._folder = folder
        self.max_file_bytes, self._max_bytes = max_file_bytes, max_bytes

    @contextmanager
    def upload(self, owner: str) -> Iterator[Upload]:
        """A file that is being written; what isn't kept at the end of the block is gone.

        Raises:
            ApiError: the caller's files are too many bytes already.
        """
        folder = self._of(owner)
        folder.mkdir(parents=True, exist_ok=True)
        room = self._max_bytes - sum(path.stat().st_size for path in _whole(folder))
        with suppress(OSError):
            for path in folder.glob("*.part"):
                if path.stat().st_mtime < time.time() - _PART_S:
                    path.unlink()
        # Ids ascend with time.
        file_id = f"file-{time.time_ns():016x}{secrets.token_hex(8)}"
        part = folder / f"{file_id}.part"
        try:
            with part.open("wb") as out:
                yield Upload(folder / file_id, out, min(room, self.max_file_bytes), self._max_bytes)
        finally:
            part.unlink(missing_ok=True)

    def list(self, owner: str) -> Iterator[File]:
        """A caller's files, the newest first."""
        for path in sorted(_whole(self._of(owner)), reverse=True):
            with suppress(ApiError):  # deleted since
                yield self.get(owner, path.name)

    def get(self, owner: str, file_id: str, param: str | None = None) -> File:
        """What is known of a file.

        Raises:
            ApiError: 404; its param is the field that named it.
        """
        try:
            return File.model_validate_json(_about(self.path(owner, file_id)).read_bytes())
        except OSError:
            message = f"there is no file {file_id[:64]!r}"
            raise ApiError(404, message, code="file_not_found", param=param) from None

    def path(self, owner: str, file_id: str) -> Path:
        """Where a caller's file is, if it is there."""
        if not re.fullmatch(r"file-[0-9a-f]{32}", file_id, re.ASCII):
            return self._folder / "none"
        return self._of(owner) / file_id

    def delete(self, owner: str, file_id: str) -> None:
        """Deletes a file.

        Raises:
            ApiError: 404.
        """
        self.get(owner, file_id)
        path = self.path(owner, file_id)
        _about(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    def adopt(self, owner: str, path: Path, filename: str) -> File:
        """Takes over a file of ours as a caller's, such as a batch's output: a link to the same bytes."""
        folder = self._of(owner)
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"file-{time.time_ns():016x}{secrets.token_hex(8)}"
        os.link(path, target)
        return _keep(target, filename, "batch_output")

    def _of(self, owner: str) -> Path:
        return self._folder / folder_of(owner)


class Upload:
    """A file that is being written.

    Args:
        path: where it will be.
        out: where its bytes go.
        room: the most bytes.
        max_bytes: of the caller's files in all, for the error's sentence.
    """

    def __init__(self, path: Path, out: BinaryIO, room: int, max_bytes: int) -> None:
        self._path, self._out, self._room, self._max_bytes = path, out, room, max_bytes
        self._num_bytes = 0

    def write(self, data: bytes) -> None:
        """Adds bytes.

        Raises:
            ApiError: they are too many.
        """
        self._num_bytes += len(data)
        if self._num_bytes > self._room:
            message = f"is more than {max(self._room, 0):,} bytes, which may be added to the files that there are"
            raise ApiError(413, f"file: {message}", code="file_too_large", param="file")
        self._out.write(data)

    def keep(self, filename: str, purpose: str) -> File:
        """Keeps it, on the disk and under a harmless name.

        Raises:
            InputError: it is empty.
        """
        if not self._num_bytes:
            raise InputError("file", "is empty")
        self._out.flush()
        os.fsync(self._out.fileno())
        os.replace(self._out.name, self._path)
        return _keep(self._path, filename, purpose)


def folder_of(owner: str) -> str:
    """The name of a caller's folder."""
    return hashlib.sha256(owner.encode()).hexdigest()[:32]


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file so that it is there whole or as it was before."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    beside.write_bytes(data)
    os.replace(beside, path)


def _keep(path: Path, filename: str, purpose: str) -> File:
    about = File(
        id=path.name,
        bytes=path.stat().st_size,
        created_at=int(time.time()),
        filename=_harmless(filename),
        purpose=purpose,
    )
    write_whole(_about(path), about.model_dump_json().encode())
    return about


def _harmless(filename: str) -> str:
    """A name to show: its last part, printable, short."""
    name = "".join(char for char in re.split(r"[/\\]", filename)[-1] if char.isprintable()).strip()
    name = name.encode(errors="ignore")[:_MAX_NAME_BYTES].decode(errors="ignore")
    return "file" if name in ("", ".", "..") else name


def _about(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _whole(folder: Path) -> Iterator[Path]:
    """The files that are whole."""
    return (path.with_suffix("") for path in folder.glob("file-*.json")) if folder.is_dir() else iter(())
