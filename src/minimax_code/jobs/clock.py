"""The two clocks of a job."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Clock:
    """What a job measures time with.

    Attributes:
        now: seconds since 1970. It dates events and leases, and may jump.
        monotonic: seconds since some moment. It says how long was worked, and never jumps; a machine that sleeps
            works nothing.
    """

    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
