"""`GET /healthz`, `GET /readyz` and `GET /metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Response

from openm3.server.errors import ApiError
from openm3.server.metrics import Metrics
from openm3.server.schema.health import Health, Readiness
from openm3.server.schema.response import ErrorResponse

if TYPE_CHECKING:
    from openm3.server.gate import Gate
    from openm3.server.upstreams.relay import Relay

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def router(front: Gate | Relay, metrics: Metrics) -> APIRouter:
    """The endpoints for whoever looks after the server."""
    routes = APIRouter()

    @routes.get("/healthz")
    async def healthz() -> Health:
        """Tells the load; an answer at all says that the server is up."""
        return front.health()

    @routes.get("/readyz", responses={503: {"model": ErrorResponse}})
    async def readyz() -> Readiness:
        """Tells whether requests should be sent here: not while the server stops, or all its upstreams are down."""
        if not front.is_ready:
            raise ApiError(503, "the server takes no requests now", code="not_ready")
        return Readiness()

    @routes.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def read_metrics() -> Response:
        """Tells Prometheus the numbers."""
        return Response(metrics.text(), media_type=_PROMETHEUS)

    return routes
