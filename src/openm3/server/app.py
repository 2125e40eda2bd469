"""The HTTP application."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

import openm3
from openm3.server import errors
from openm3.server.body import BodyLimit
from openm3.server.boundary import RequestBoundary
from openm3.server.callers import SECURITY
from openm3.server.gate import Gate
from openm3.server.metrics import Metrics
from openm3.server.response_store import ResponseStore
from openm3.server.routes import chat, completions, health, messages, models, responses
from openm3.server.settings import Settings
from openm3.server.watch import RequestWatch

if TYPE_CHECKING:
    from openm3.server.backend import Backend


def create_app(backend: Backend, settings: Settings | None = None) -> FastAPI:
    """The application that serves `backend`, which it starts and closes with itself; `app.state.gate` is before it."""
    settings, metrics = settings or Settings(), Metrics()
    gate = Gate(backend, settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        await gate.start()
        try:
            yield
        finally:
            await gate.aclose()

    # No documentation pages: they would load scripts of third parties. The document itself is there.
    app = FastAPI(title="OpenM3", version=openm3.__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.gate = gate
    # Those added last are the outer ones.
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, max_s=settings.body_s)
    app.add_middleware(RequestWatch, metrics=metrics, log_prompts=settings.log_prompts)
    app.add_middleware(RequestBoundary)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    errors.install(app)
    app.include_router(health.router(gate, metrics))
    for endpoints in (chat, completions, messages, models):
        app.include_router(endpoints.router(gate), dependencies=SECURITY)
    stored = ResponseStore(settings.max_stored_bytes)
    app.include_router(responses.router(gate, stored), dependencies=SECURITY)
    return app
