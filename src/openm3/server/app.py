"""The HTTP application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

import openm3
from openm3.server import errors
from openm3.server.accounts.access import Access, accounts_of
from openm3.server.body import BodyLimit
from openm3.server.boundary import RequestBoundary
from openm3.server.callers import SECURITY
from openm3.server.conversation import EngineTalk, Talk
from openm3.server.extras import Extras
from openm3.server.gate import Doorkeeper, Gate
from openm3.server.metrics import Metrics
from openm3.server.routes import chat, code, completions, console, health, messages, models, relayed, responses, usage
from openm3.server.settings import Settings
from openm3.server.tracing import Tracing
from openm3.server.upstreams.relay import Relay
from openm3.server.upstreams.talk import UpstreamTalk
from openm3.server.watch import RequestWatch

if TYPE_CHECKING:
    from openm3.server.backend import Backend


def create_app(backend: Backend | None, settings: Settings | None = None, *, tracing: Tracing | None = None) -> FastAPI:
    """The application that serves `backend`, which it starts and closes with itself; without one, the upstreams.

    Requests are told to `tracing`, or to the collector of the settings if there is one.

    `app.state.front` is what stands before them, `app.state.extras` what there is beside.
    """
    settings, metrics = settings or Settings(), Metrics()
    tracing = tracing or (Tracing.to(settings.otlp_endpoint) if settings.otlp_endpoint else None)
    accounts = accounts_of(settings)
    front: Gate | Relay
    talk: Talk
    if backend is None:
        front = relay = Relay(settings, metrics)
        routers, talk = [relayed.router(relay)], UpstreamTalk(relay)
    else:
        front = gate = Gate(backend, settings, metrics)
        routers, talk = [endpoints.router(gate) for endpoints in (chat, completions, models)], EngineTalk(gate)
        routers.append(messages.counting_router(gate))
    extras = Extras(settings, front, accounts)
    routers += [messages.router(talk), responses.router(talk, extras.responses), code.router(talk), *extras.routers]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with accounts.running() if accounts else nullcontext():
            await front.start()
            await extras.start()
            try:
                yield
            finally:
                await extras.aclose()
                await front.aclose()
                if tracing:
                    await asyncio.to_thread(tracing.close)

    app = FastAPI(
        title="OpenM3",
        version=openm3.__version__,
        lifespan=lifespan,
        docs_url=None,  # these pages would load scripts of third parties; the document itself is there
        redoc_url=None,
        # Its own spans end before tokens are counted, and what it tells of failures holds texts.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.front, app.state.extras = front, extras
    # Those added last are the outer ones.
    if isinstance(front, Gate):
        app.add_middleware(Doorkeeper, gate=front)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, max_s=settings.body_s, others=extras.body_limits)
    if accounts:
        app.add_middleware(Access, accounts=accounts)
    app.add_middleware(RequestWatch, metrics=metrics, log_prompts=settings.log_prompts, tracing=tracing)
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
    app.include_router(health.router(front, metrics))
    app.include_router(console.router())
    for router in (*routers, usage.router()):
        app.include_router(router, dependencies=SECURITY)
    return app
