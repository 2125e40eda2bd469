"""What becomes known of a request while it is served, for the log: one line when it has ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openm3.server.tracing import Trace

_INNER = ("began", "trace")  # fields that are not for the log

_current: ContextVar[Record | None] = ContextVar("request", default=None)


@dataclass
class Record:
    """A request in the log; never what was asked or answered, unless `prompt` was asked for.

    Attributes:
        request_id, method, path: of the request; its query isn't kept.
        key_id: whose it is; None: anonymous.
        model: who answered.
        status: of the response; None: the client went away before there was one.
        prompt_tokens, cached_tokens, completion_tokens: of all choices so far.
        first_token_s: seconds from the request's head to the first token.
        finish_reasons: of the choices that have ended.
        upstream: which one answered.
        prompt: the body, where bodies are logged.
        trace: its spans, where requests are traced.
    """

    request_id: str
    method: str
    path: str
    key_id: str | None = None
    model: str | None = None
    status: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    first_token_s: float | None = None
    finish_reasons: list[str] = field(default_factory=list)
    upstream: str | None = None
    prompt: str | None = None
    trace: Trace | None = None
    began: float = field(default_factory=time.perf_counter)

    @property
    def elapsed_s(self) -> float:
        """Seconds since its head was read."""
        return time.perf_counter() - self.began

    def add_tokens(self, *, prompt: int = 0, cached: int = 0, completion: int = 0) -> None:
        """Counts tokens."""
        self.prompt_tokens = (self.prompt_tokens or 0) + prompt
        self.cached_tokens = (self.cached_tokens or 0) + cached
        self.completion_tokens = (self.completion_tokens or 0) + completion

    def fields(self) -> dict[str, Any]:
        """What is known, for a line of JSON."""
        known = {name: value for name, value in vars(self).items() if value not in (None, []) and name not in _INNER}
        traced = {"trace_id": self.trace.trace_id} if self.trace else {}
        return known | traced | {"duration_s": round(self.elapsed_s, 6)}

    @contextmanager
    def current(self) -> Iterator[None]:
        """Within it, `Record.of_task` gives this record, in tasks that are begun there too."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    @staticmethod
    def of_task() -> Record | None:
        """The record of the request that this task works for; None outside of requests."""
        return _current.get()
