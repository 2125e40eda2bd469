"""Answers kept by the client, off by default. A key covers everything that an answer depends on."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import httpx2


class Cache(Protocol):
    """Where answers are kept."""

    def get(self, key: str) -> bytes | None:
        """What was put under a key; None where nothing is."""

    def put(self, key: str, value: bytes) -> None:
        """Keeps a value under a key."""


class MemoryCache:
    """The last `max_entries` answers, in memory."""

    def __init__(self, max_entries: int = 1000) -> None:
        self._entries: OrderedDict[str, bytes] = OrderedDict()
        self._max_entries, self._lock = max_entries, threading.Lock()

    def get(self, key: str) -> bytes | None:
        """See `Cache`."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: str, value: bytes) -> None:
        """See `Cache`."""
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            while len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)


class FolderCache:
    """Answers in files of a folder, for this user alone; deleting files is how it is emptied."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)

    def get(self, key: str) -> bytes | None:
        """See `Cache`."""
        try:
            return (self._folder / key).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, key: str, value: bytes) -> None:
        """Writes beside and moves last, so that a reader sees whole answers only."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._folder)
        with os.fdopen(descriptor, "wb") as file:
            file.write(value)
        os.replace(name, self._folder / key)


def key_of(request: httpx2.Request) -> str | None:
    """The name of a request's answer; None for what isn't kept: streams, uploads, and what has no body."""
    body = request.content if request.method == "POST" else b""
    if not request.headers.get("content-type", "").startswith("application/json") or not body:
        return None
    if json.loads(body).get("stream"):
        return None
    parts = (str(request.url).encode(), request.headers.get("authorization", "").encode(), body)
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
