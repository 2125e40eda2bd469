"""How the server treats requests: limits and times.

`openm3 serve` has an option for each field, made from the field itself: `max_body_bytes` is `--max-body-bytes`; a tuple
`things` is `--thing`, which may be given again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from openm3.errors import InputError


def setting(default: Any, help_: str, *, metavar: str | None = None) -> Any:
    """A field of `Settings` with the help of its option."""
    return field(default=default, metadata={"help": help_, "metavar": metavar})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The server's settings; every default works. Times are seconds.

    Raises:
        InputError: a value is out of range.
    """

    max_body_bytes: int = setting(64 << 20, "The largest body of a request.", metavar="BYTES")
    grace_s: float = setting(5.0, "How long running requests may go on after SIGTERM or Ctrl-C.", metavar="S")

    def __post_init__(self) -> None:
        if not self.max_body_bytes > 0:
            raise InputError("max_body_bytes", f"{self.max_body_bytes} is not above 0")
        if not self.grace_s >= 0:
            raise InputError("grace_s", f"{self.grace_s} is below 0")
