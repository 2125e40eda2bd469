"""One upstream: where it is, what it serves, and how it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from openm3.errors import InputError


@dataclass(eq=False)
class Upstream:
    """A server with the OpenAI API.

    Attributes:
        url: up to the version, `http://host:8000/v1`.
        weight: its share of the requests, relative to the others'.
        models: what it serves, by its own names, with the windows that it tells.
        is_up: whether it answered when it was last asked.
        num_running: requests that it is answering for us.
        num_served: those that it was given since it came up.
    """

    url: str
    weight: float = 1.0
    models: Mapping[str, int | None] = field(default_factory=dict)
    is_up: bool = False
    num_running: int = 0
    num_served: int = 0
    error: str = field(default="not asked yet", repr=False)

    @classmethod
    def parse(cls, text: str) -> Upstream:
        """Reads `URL` or `URL=WEIGHT`; a URL without a path gets `/v1`.

        Raises:
            InputError: it is neither.
        """
        url, weight = text, 1.0
        base, equals, number = text.rpartition("=")
        if equals:
            try:
                url, weight = base, float(number)
            except ValueError:
                raise InputError("--upstream", f"{number!r} is no number; give URL or URL=WEIGHT") from None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise InputError("--upstream", f"{url!r} is no http:// or https:// address of a server")
        if not 0 < weight < float("inf"):
            raise InputError("--upstream", f"the weight {weight:g} of {url} is not above 0")
        return cls(url.rstrip("/") + ("" if parts.path.strip("/") else "/v1"), weight)

    @property
    def name(self) -> str:
        """Where it is, without what a log should not hold."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)

    @property
    def burden(self) -> tuple[float, float]:
        """The least burdened upstream is next: by what it is doing, then by what it has done."""
        return self.num_running / self.weight, self.num_served / self.weight

    def came_up(self, models: Mapping[str, int | None]) -> None:
        """It has answered with what it serves."""
        self.is_up, self.models, self.error = True, models, ""

    def went_down(self, error: str) -> None:
        """It hasn't answered."""
        self.is_up, self.error = False, error


def parse_names(texts: Sequence[str]) -> dict[str, str]:
    """What upstreams call the models that clients know by other names, from `NAME=THEIRS`.

    Raises:
        InputError: one isn't written so.
    """
    names = {}
    for text in texts:
        name, equals, theirs = text.partition("=")
        if not (name and equals and theirs):
            raise InputError("--upstream-model", f"{text!r} is not NAME=THEIRS")
        names[name] = theirs
    return names
