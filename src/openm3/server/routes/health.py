"""`GET /healthz`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter

from openm3.server.schema.health import Health

if TYPE_CHECKING:
    from openm3.engine.service import Service


def router(service: Service) -> APIRouter:
    """The endpoint that tells whether the server is up, and its load."""
    routes = APIRouter()

    @routes.get("/healthz")
    async def healthz() -> Health:
        """Tells the load."""
        status = service.status()
        return Health(
            model=service.llm.name,
            running=status.running,
            waiting=status.waiting,
            free_pages=status.free_pages,
            num_pages=status.num_pages,
        )

    return routes
