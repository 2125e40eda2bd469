"""`GET /healthz`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from openm3.server.schema.response import omitted_when_none


class Health(BaseModel):
    """The load of a server that is up: requests, and pages of its cache, or the servers that answer for it."""

    status: Literal["ok"] = "ok"
    model: str | None = omitted_when_none()
    running: int
    waiting: int
    free_pages: int | None = omitted_when_none()
    num_pages: int | None = omitted_when_none()
    replicas: int | None = omitted_when_none()
    replicas_up: int | None = omitted_when_none()
    upstreams: int | None = omitted_when_none()
    upstreams_up: int | None = omitted_when_none()


class Readiness(BaseModel):
    """The server takes requests."""

    status: Literal["ready"] = "ready"
