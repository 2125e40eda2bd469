"""Responses that may be asked for again, or gone on with: the newest ones, in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openm3.server.errors import ApiError
from openm3.server.schema.responses_answer import Response


@dataclass(frozen=True)
class Stored:
    """A response and what it ends.

    Attributes:
        owner: the key that it was asked with; nobody else sees it.
        response: as it was given.
        items: of the conversation up to its end.
        num_bytes: about what it takes.
    """

    owner: str | None
    response: Response
    items: tuple[Any, ...]
    num_bytes: int


class ResponseStore:
    """Keeps responses while they take less than `max_bytes` together; the oldest are forgotten first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._stored: OrderedDict[str, Stored] = OrderedDict()

    def put(self, owner: str | None, response: Response, items: Sequence[Any]) -> None:
        """Keeps a response; one that is larger than everything that may be kept is forgotten at once."""
        num_bytes = len(response.model_dump_json()) + sum(len(item.model_dump_json()) for item in items)
        self._stored[response.id] = Stored(owner, response, tuple(items), num_bytes)
        self._num_bytes += num_bytes
        while self._num_bytes > self._max_bytes:
            _, oldest = self._stored.popitem(last=False)
            self._num_bytes -= oldest.num_bytes

    def get(self, owner: str | None, response_id: str, field: str = "response_id") -> Stored:
        """A response of this owner.

        Raises:
            ApiError: there is none; its parameter is `field`.
        """
        stored = self._stored.get(response_id)
        if stored is None or stored.owner != owner:
            message = f"{field}: no response {response_id[:64]!r} is kept here; the newest are, unless store is false"
            raise ApiError(404, message, code="response_not_found", param=field)
        return stored

    def delete(self, owner: str | None, response_id: str) -> None:
        """Forgets a response; the errors are those of `get`."""
        self._num_bytes -= self.get(owner, response_id).num_bytes
        del self._stored[response_id]
