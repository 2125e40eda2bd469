"""Responses that may be asked for again, or gone on with: the newest ones, and with a folder after a restart too."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from openm3.server.errors import ApiError
from openm3.server.files import write_whole
from openm3.server.schema.responses import Item
from openm3.server.schema.responses_answer import Response

_log = logging.getLogger(__name__)


class Stored(BaseModel):
    """A response and what it ends.

    Attributes:
        owner: the key that it was asked with; nobody else sees it.
        response: as it was given.
        items: of the conversation up to its end.
    """

    model_config = ConfigDict(frozen=True)

    owner: str | None
    response: Response
    items: tuple[Item, ...]


class ResponseStore:
    """Keeps responses while they take less than `max_bytes` together; the oldest are forgotten first.

    Args:
        max_bytes: of their JSON.
        folder: a file for each; None: they end with the process.
    """

    def __init__(self, max_bytes: int, folder: Path | None = None) -> None:
        self._max_bytes, self._num_bytes, self._folder = max_bytes, 0, folder
        self._stored: OrderedDict[str, tuple[Stored | None, int]] = OrderedDict()  # None: in its file
        # One thread: what is done with a file is done in its order, and the event loop waits for no disk.
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="openm3-responses")
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            known = [(path.stat(), path.stem) for path in folder.glob("resp_*.json")]
            for about, response_id in sorted(known, key=lambda each: each[0].st_mtime_ns):
                self._add(response_id, None, about.st_size)

    def put(self, owner: str | None, response: Response, items: Sequence[Any]) -> None:
        """Keeps a response; one that is larger than everything that may be kept is forgotten at once."""
        stored = Stored.model_construct(owner=owner, response=response, items=tuple(items))
        data = stored.model_dump_json(exclude_unset=True, by_alias=True).encode()
        self._add(response.id, stored, len(data))
        if response.id in self._stored and self._folder is not None:
            self._disk.submit(self._write, response.id, data)

    async def get(self, owner: str | None, response_id: str, field: str = "response_id") -> Stored:
        """A response of this owner.

        Raises:
            ApiError: there is none; its parameter is `field`.
        """
        stored, num_bytes = self._stored.get(response_id, (None, 0))
        if num_bytes and stored is None:
            stored = await asyncio.get_running_loop().run_in_executor(self._disk, self._read, response_id)
        if stored is None or stored.owner != owner:
            message = f"{field}: no response {response_id[:64]!r} is kept here; the newest are, unless store is false"
            raise ApiError(404, message, code="response_not_found", param=field)
        return stored

    async def delete(self, owner: str | None, response_id: str) -> None:
        """Forgets a response; the errors are those of `get`."""
        await self.get(owner, response_id)
        self._forget(response_id)

    async def aclose(self) -> None:
        """Waits until everything is written."""
        await asyncio.to_thread(self._disk.shutdown)

    def _add(self, response_id: str, stored: Stored | None, num_bytes: int) -> None:
        self._stored[response_id] = stored, num_bytes
        self._num_bytes += num_bytes
        while self._num_bytes > self._max_bytes:
            self._forget(next(iter(self._stored)))

    def _forget(self, response_id: str) -> None:
        _, num_bytes = self._stored.pop(response_id, (None, 0))
        self._num_bytes -= num_bytes
        if self._folder is not None:
            self._disk.submit(self._path(response_id).unlink, missing_ok=True)

    def _path(self, response_id: str) -> Path:
        assert self._folder is not None and re.fullmatch(r"resp_\w+", response_id, re.ASCII), response_id
        return self._folder / f"{response_id}.json"

    def _write(self, response_id: str, data: bytes) -> None:
        try:
            write_whole(self._path(response_id), data)
        except OSError as error:  # it is still in memory
            _log.error("the response %s is not on the disk: %s", response_id, error)

    def _read(self, response_id: str) -> Stored | None:
        try:
            return Stored.model_validate_json(self._path(response_id).read_bytes())
        except (OSError, ValueError) as error:  # deleted by hand, or of another version
            _log.error("the response %s can't be read again: %s", response_id, error)
            return None
