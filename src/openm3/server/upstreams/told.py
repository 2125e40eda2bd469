"""What an upstream's response tells: read while it passes through, event by event."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

_END_OF_EVENT = re.compile(rb"\r?\n\r?\n")
_LONGEST_EVENT = 16 << 20
_MEMBERS = ("message", "response")  # whose usage the events of other APIs tell


class Told:
    """Tokens that a response tells of, and its bytes with the model's name that the client knows.

    Args:
        theirs, model: the model's names, the upstream's and the client's.
        hides_usage: the client hasn't asked for the event that only tells the tokens.
    """

    def __init__(self, theirs: str, model: str, *, hides_usage: bool) -> None:
        self._hides_usage = hides_usage
        self._name = re.compile(rb'"model"\s*:\s*' + re.escape(json.dumps(theirs).encode()))
        self._own_name = b'"model":' + json.dumps(model).encode()
        self._is_renamed = theirs != model
        self._held = b""
        self.prompt_tokens: int | None = None
        self.cached_tokens = 0
        self.completion_tokens = 0
        self._told_completion = False

    def events(self, data: bytes) -> Iterator[bytes]:
        """The events that `data` completes.

        Raises:
            ValueError: one is longer than any sensible one.
        """
        self._held += data
        start = 0
        for end in _END_OF_EVENT.finditer(self._held):
            event, start = self._held[start : end.end()], end.end()
            if not self._only_tells_usage(event):
                yield self.renamed(event)
        self._held = self._held[start:]
        if len(self._held) > _LONGEST_EVENT:
            raise ValueError("an event without an end")

    def rest(self) -> bytes:
        """What came after the last whole event."""
        return self._held

    def renamed(self, data: bytes) -> bytes:
        """The same with the model's name that the client knows."""
        return self._name.sub(lambda _: self._own_name, data, count=1) if self._is_renamed else data

    def whole(self, body: bytes) -> bytes:
        """A response that isn't streamed."""
        with suppress(ValueError):  # what isn't JSON tells nothing
            self._read(json.loads(body))
        return self.renamed(body)

    def _only_tells_usage(self, event: bytes) -> bool:
        """Reads an event; whether it is the one that the client hasn't asked for."""
        if not self._told_completion and event.startswith(b"data: {"):
            self.completion_tokens += 1  # at the least, until the upstream says how many they are
        if b'"usage"' not in event:
            return False
        found = re.search(rb"^data: *(\{.*)$", event, re.MULTILINE)
        try:
            fields = json.loads(found[1]) if found else None
        except ValueError:
            return False
        if not isinstance(fields, dict):
            return False
        self._read(fields)
        return self._hides_usage and fields.get("choices") == [] and bool(fields.get("usage"))

    def _read(self, fields: Any) -> None:
        if not isinstance(fields, dict):
            return
        for member in (fields, *(fields.get(name) for name in _MEMBERS)):
            usage = member.get("usage") if isinstance(member, dict) else None
            if isinstance(usage, dict):
                self._take(usage)

    def _take(self, usage: dict[str, Any]) -> None:
        prompt = _first_int(usage, "prompt_tokens", "input_tokens")
        completion = _first_int(usage, "completion_tokens", "output_tokens")
        if prompt is not None:
            self.prompt_tokens = prompt
        if completion is not None:
            self.completion_tokens, self._told_completion = completion, True
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
        if isinstance(details, dict):
            self.cached_tokens = _first_int(details, "cached_tokens") or 0


def _first_int(fields: dict[str, Any], *names: str) -> int | None:
    return next((value for name in names if isinstance(value := fields.get(name), int) and value >= 0), None)
