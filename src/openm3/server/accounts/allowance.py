"""What a plan still allows a key, and the headers that say so."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """The limits of a key and what is left of them at one moment; None is no limit.

    Attributes:
        tokens_per_day, requests_per_minute, concurrent_requests: as in `Plan`.
        used_tokens: charged today.
        reserved_tokens: of requests that run, and may yet be given back.
        recent_requests: begun in the last 60 seconds.
        running_requests: running now.
        next_request_s: until the oldest of the recent requests no longer counts.
        next_day_s: until the tokens of a day are there again.
    """

    tokens_per_day: int | None
    requests_per_minute: int | None
    concurrent_requests: int | None
    used_tokens: int
    reserved_tokens: int
    recent_requests: int
    running_requests: int
    next_request_s: float
    next_day_s: float

    @property
    def tokens_left(self) -> int | None:
        """What a request may reserve."""
        return _left(self.tokens_per_day, self.used_tokens + self.reserved_tokens)

    @property
    def requests_left(self) -> int | None:
        """How many requests may begin now."""
        return _left(self.requests_per_minute, self.recent_requests)

    def beside(self, reserved_tokens: int) -> Allowance:
        """What is left beside one more request."""
        return replace(
            self,
            reserved_tokens=self.reserved_tokens + reserved_tokens,
            recent_requests=self.recent_requests + 1,
            running_requests=self.running_requests + 1,
        )

    def headers(self) -> Iterator[tuple[str, str]]:
        """The `x-ratelimit-*` headers of the OpenAI API; what has no limit has no header."""
        for what, limit, left, reset_s in self._limits():
            yield f"x-ratelimit-limit-{what}", str(limit)
            yield f"x-ratelimit-remaining-{what}", str(left)
            yield f"x-ratelimit-reset-{what}", duration(reset_s)

    def anthropic_headers(self, now: datetime) -> Iterator[tuple[str, str]]:
        """The same as the Anthropic API says it, with the moment, in UTC, when a limit resets."""
        for what, limit, left, reset_s in self._limits():
            name, resets = f"anthropic-ratelimit-{what}", now + timedelta(seconds=math.ceil(reset_s))
            yield f"{name}-limit", str(limit)
            yield f"{name}-remaining", str(left)
            yield f"{name}-reset", resets.strftime("%Y-%m-%dT%H:%M:%SZ")

    def _limits(self) -> Iterator[tuple[str, int, int, float]]:
        """Of what, the limit, what is left, and the seconds until it resets."""
        if self.requests_per_minute is not None and self.requests_left is not None:
            yield "requests", self.requests_per_minute, self.requests_left, self.next_request_s
        if self.tokens_per_day is not None and self.tokens_left is not None:
            yield "tokens", self.tokens_per_day, self.tokens_left, self.next_day_s


def duration(seconds: float) -> str:
    """As the OpenAI API writes it: `6m0s`, `1h2m3s`; whole seconds, never too few."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest}s"


def _left(limit: int | None, used: int) -> int | None:
    return None if limit is None else max(0, limit - used)
