"""Client-side rate limits."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RateLimit:
    """At most `calls` requests within any `period_s` seconds; more wait for their turn, in the order they came.

    A retry is a request too.
    """

    calls: int
    period_s: float

    def __post_init__(self) -> None:
        if self.calls < 1:
            raise ValueError(f"calls: must be at least 1, got {self.calls}")
        if self.period_s <= 0:
            raise ValueError(f"period_s: must be positive, got {self.period_s}")


class Pacer:
    """Says when each request may go, by the clock `now`. For threads and for asyncio."""

    def __init__(self, limit: RateLimit, *, now: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._lock, self._now = limit, threading.Lock(), now
        self._times: deque[float] = deque(maxlen=limit.calls)  # when the last ones went, or will go

    def wait_s(self) -> float:
        """Takes the next turn; seconds until it comes."""
        with self._lock:
            now = self._now()
            full = len(self._times) == self._limit.calls
            turn = max(now, self._times[0] + self._limit.period_s) if full else now
            self._times.append(turn)
            return turn - now
