"""The HTTP application."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

import openm3
from openm3.server import errors
from openm3.server.body import BodyLimit
from openm3.server.boundary import RequestBoundary
from openm3.server.callers import SECURITY
from openm3.server.routes import chat, completions, health, messages, models
from openm3.server.settings import Settings

if TYPE_CHECKING:
    from openm3.engine.service import Service


def create_app(service: Service, settings: Settings | None = None) -> FastAPI:
    """The application that serves `service`, which it starts and closes with itself."""
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        await service.start()
        try:
            yield
        finally:
            await service.aclose()

    # No documentation pages: they would load scripts of third parties. The document itself is there.
    app = FastAPI(title="OpenM3", version=openm3.__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(RequestBoundary)  # added last, so it is the outer one
    errors.install(app)
    app.include_router(health.router(service))
    for endpoints in (chat, completions, messages, models):
        app.include_router(endpoints.router(service), dependencies=SECURITY)
    return app
