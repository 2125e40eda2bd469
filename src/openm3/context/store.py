"""Contexts on disk: tokens, files and cache pages of what a model has read, one file a context, laid out to be mapped.

    64 KiB     magic, version, where the description is, the checksum of all that; zeros
    sections   the files' texts, the tokens, and each tensor's pages one after the other; each begins at 64 KiB * n
    the rest   the description, JSON: what `About` holds, and place and checksum of every section

Checksums are XXH3 of 128 bits, over zeros between sections too, so every byte of a file is covered. They find what
went wrong on the way; they don't keep out somebody who wants to deceive. No torch here.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from openm3.context.files import Collection, ContextFile
from openm3.errors import InputError, StoreError

VERSION = 1
ALIGNMENT = 1 << 16  # a multiple of the page size of every system

_MAGIC = b"openm3\0c"
_HEADER = struct.Struct("<8sI4xQQ16s")  # magic, version, place and length of the description, its checksum
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_SUFFIX = ".context"
_DIGEST_BYTES = 16
_PIECE_BYTES = 1 << 20  # stays in the processor's cache between reading and summing

# A section's name, its bytes in pieces. A piece may be anything that gives its memory.
Section = tuple[str, Iterable[memoryview]]


@dataclass(frozen=True)
class StoredFile:
    """A file of the context: its text's digest, and tokens `start` to `stop - 1` of the prompt.

    Both are 0 where the tokens don't tell, see `SourceMap.missing`.
    """

    path: str
    absolute: str
    digest: str
    num_bytes: int
    start: int = 0
    stop: int = 0


@dataclass(frozen=True, kw_only=True)
class About:
    """What a context is.

    Attributes:
        model: what the model is called.
        identity: everything that keys and values depend on, by name; must be the same where they are used again.
        options: how the command that read it was called, for those that use it.
        num_tokens: tokens whose pages are kept, all of them full.
        created: when, in ISO 8601.
        files: in the order in which they were read.
    """

    model: str
    identity: dict[str, str]
    options: dict[str, Any]
    num_tokens: int
    created: str
    files: tuple[StoredFile, ...]


class Context:
    """An open context file. Close it, or use it with `with`; what was mapped from it stays.

    Attributes:
        path: the file.
        about: what it is.
        num_bytes: of the file.
    """

    def __init__(self, path: Path, file: BinaryIO, about: About, sections: dict[str, tuple[int, int, str]]) -> None:
        self.path, self.about, self._file, self._sections = path, about, file, sections
        self.num_bytes = os.fstat(file.fileno()).st_size

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def fileno(self) -> int:
        """For a mapping of one's own."""
        return self._file.fileno()

    def place(self, name: str) -> tuple[int, int]:
        """Where a section begins and how many bytes it has.

        Raises:
            StoreError: there is no such section.
        """
        if name not in self._sections:
            raise StoreError(f"{self.path}: has no {name}; save the context again")
        return self._sections[name][:2]

    def read_into(self, memory: memoryview, at: int) -> None:
        """Fills memory with what the file has at a place.

        Raises:
            StoreError: the file ends before.
        """
        while len(memory):
            count = os.preadv(self.fileno, [memory], at)
            if not count:
                raise StoreError(f"{self.path}: was cut short; save the context again")
            memory, at = memory[count:], at + count

    def section(self, name: str) -> bytearray:
        """A section's bytes."""
        start, size = self.place(name)
        data = bytearray(size)
        self.read_into(memoryview(data), start)
        return data

    def tokens(self) -> list[int]:
        """The tokens whose pages are kept."""
        return memoryview(self.section("tokens")).cast("q").tolist()

    def collection(self) -> Collection:
        """The files as they were."""
        text, at, files = self.section("text"), 0, []
        for file in self.about.files:
            files.append(ContextFile(file.path, Path(file.absolute), text[at : at + file.num_bytes].decode()))
            at += file.num_bytes
        return Collection(tuple(files), ())

    def verify(self, num_threads: int) -> None:
        """Compares all sections with their checksums.

        Raises:
            StoreError: one differs.
        """

        def check(name: str) -> str | None:
            start, size, digest = self._sections[name]
            state, buffer = xxhash.xxh3_128(), memoryview(bytearray(_PIECE_BYTES))
            for at in range(start, stop := _aligned(start + size), _PIECE_BYTES):
                piece = buffer[: stop - at]
                self.read_into(piece, at)
                state.update(piece)
            return None if state.hexdigest() == digest else name

        with ThreadPoolExecutor(num_threads) as pool:
            altered = [name for name in pool.map(check, self._sections) if name]
        if altered:
            raise StoreError(f"{self.path}: was altered or damaged ({', '.join(altered[:3])}); save the context again")


class Store:
    """The contexts in a folder. What has a context's name is whole: it is written beside it and moved there last.

    Args:
        folder: made when the first one is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """The file of a context, there or not.

        Raises:
            InputError: this can't be a name.
        """
        if not _NAME.fullmatch(name):
            raise InputError("NAME", f"{name!r} is no name: take up to 64 letters, digits, '.', '_' and '-'")
        return self.folder / f"{name}{_SUFFIX}"

    def names(self) -> list[str]:
        """What is there, sorted."""
        return sorted(path.name.removesuffix(_SUFFIX) for path in self.folder.glob(f"[!.]*{_SUFFIX}"))

    def has(self, name: str) -> bool:
        return self.path(name).exists()

    def remove(self, name: str) -> None:
        """Deletes a context; who has it open keeps it.

        Raises:
            InputError: it isn't there.
        """
        try:
            self.path(name).unlink()
        except FileNotFoundError as error:
            raise self._unknown(name) from error

    def open(self, name: str) -> Context:
        """Opens a context and checks all but its sections' contents, see `Context.verify`.

        Raises:
            InputError: it isn't there.
            StoreError: it is no context, of an unknown version, cut short or altered.
        """
        path = self.path(name)
        try:
            file = open(path, "rb")  # noqa: SIM115  # the context's, which closes it
        except FileNotFoundError as error:
            raise self._unknown(name) from error
        try:
            return Context(path, file, *_read_description(path, file))
        except BaseException:
            file.close()
            raise

    def save(self, name: str, about: About, sections: Iterable[Section], report: Callable[[int], None]) -> int:
        """Writes a context, in the place of one with this name.

        Args:
            name: of the context.
            about: what it is.
            sections: read while they are written.
            report: told how many bytes are written.

        Returns:
            Bytes of the file.

        Raises:
            InputError: this can't be a name, or another process saves it just now.
            StoreError: it can't be written; what was there before still is.
        """
        path = self.path(name)
        part = path.with_name(f".{path.name}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _only_writer(part, name) as file:
                size = _write(file, about, sections, report)
                os.fsync(file.fileno())
                part.replace(path)
                os.fchmod(file.fileno(), 0o444)  # it is mapped: nobody should write to it
            folder = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise StoreError(f"{path}: can't be written: {error.strerror or error}") from error
        return size

    def _unknown(self, name: str) -> InputError:
        there = ", ".join(self.names())
        return InputError("NAME", f"there is no context {name!r}" + (f"; there are {there}" if there else " yet"))


def digest(data: bytes) -> str:
    """The checksum that contexts use, as hex digits."""
    return xxhash.xxh3_128(data).hexdigest()


@contextmanager
def _only_writer(part: Path, name: str) -> Iterator[BinaryIO]:
    """The file to write to, empty. What a killed process left is written over; what is left on an error is deleted."""
    file = open(os.open(part, os.O_RDWR | os.O_CREAT, 0o644), "r+b")  # noqa: SIM115
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = part.stat().st_ino == os.fstat(file.fileno()).st_ino  # else it was moved to its place meanwhile
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if not mine:
            raise InputError("NAME", f"another process saves {name!r} just now")
        try:
            file.truncate()
            yield file
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _write(file: BinaryIO, about: About, sections: Iterable[Section], report: Callable[[int], None]) -> int:
    places = {}
    at = ALIGNMENT
    for name, pieces in sections:
        start, state = at, xxhash.xxh3_128()
        file.seek(start)
        for piece in pieces:
            file.write(piece)
            state.update(piece)
            at += piece.nbytes
            report(at)
        state.update(bytes(_aligned(at) - at))
        places[name] = (start, at - start, state.hexdigest())
        at = _aligned(at)
    description = json.dumps({"about": asdict(about), "sections": places}).encode()
    file.truncate(at)
    file.seek(at)
    file.write(description)
    header = _HEADER.pack(_MAGIC, VERSION, at, len(description), xxhash.xxh3_128(description).digest())
    header = header.ljust(ALIGNMENT - _DIGEST_BYTES, b"\0")
    file.seek(0)
    file.write(header + xxhash.xxh3_128(header).digest())
    file.flush()
    return at + len(description)


def _read_description(path: Path, file: BinaryIO) -> tuple[About, dict[str, tuple[int, int, str]]]:
    header = file.read(ALIGNMENT)
    if len(header) < _HEADER.size or header[: len(_MAGIC)] != _MAGIC:
        raise StoreError(f"{path}: is no context of openm3")
    _, version, start, size, checksum = _HEADER.unpack_from(header)
    if version != VERSION:
        raise StoreError(f"{path}: is of version {version} and this program knows version {VERSION}; save it again")
    end = os.fstat(file.fileno()).st_size
    if len(header) < ALIGNMENT or xxhash.xxh3_128(header[:-_DIGEST_BYTES]).digest() != header[-_DIGEST_BYTES:]:
        raise StoreError(f"{path}: its header was altered or damaged; save the context again")
    if end != start + size:
        raise StoreError(f"{path}: has {end:,} bytes instead of {start + size:,}; save the context again")
    file.seek(start)
    description = file.read(size)
    if xxhash.xxh3_128(description).digest() != checksum:
        raise StoreError(f"{path}: its description was altered or damaged; save the context again")
    try:
        raw = json.loads(description)
        files = tuple(StoredFile(**each) for each in raw["about"].pop("files"))
        about = About(**raw["about"], files=files)
        sections = {name: (int(at), int(count), str(sum_)) for name, (at, count, sum_) in raw["sections"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path}: has a description that can't be read ({error}); save the context again") from error
    if any(not ALIGNMENT <= at <= at + count <= start for at, count, _ in sections.values()):
        raise StoreError(f"{path}: has sections outside the file; save the context again")
    return about, sections


def _aligned(at: int) -> int:
    return -(-at // ALIGNMENT) * ALIGNMENT


def differences(kept: dict[str, str], here: dict[str, str]) -> list[str]:
    """What of two identities differs, in words."""
    names = [*kept, *(name for name in here if name not in kept)]
    return [
        f"{name} {kept.get(name, 'unknown')} there and {here.get(name, 'unknown')} here"
        for name in names
        if kept.get(name) != here.get(name)
    ]
