"""`GET /healthz`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class Health(BaseModel):
    """The load of a server that is up: requests, and pages of its cache."""

    status: Literal["ok"] = "ok"
    model: str
    running: int
    waiting: int
    free_pages: int
    num_pages: int


class Readiness(BaseModel):
    """The server takes requests."""

    status: Literal["ready"] = "ready"
