"""The endpoints of a server that has upstreams: each request goes on to one of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from openm3.server.callers import CurrentCaller
from openm3.server.routes.models import not_there
from openm3.server.schema.models import Model, ModelList
from openm3.server.schema.response import ErrorResponse

if TYPE_CHECKING:
    from openm3.server.upstreams.relay import Relay

# What our paths are called there.
_PATHS = {
    **{f"/v1{path}": path for path in ("/chat/completions", "/completions", "/embeddings")},
    **{f"{root}/v1/messages/count_tokens": "/messages/count_tokens" for root in ("", "/anthropic")},
}


def router(relay: Relay) -> APIRouter:
    """The endpoints, and the models that can be asked for."""
    routes = APIRouter(responses={"4XX": {"model": ErrorResponse}, "5XX": {"model": ErrorResponse}})

    async def hand_on(request: Request) -> Response:
        """Answered by an upstream, which says what it takes."""
        return await relay.respond(request, _PATHS[request.url.path])

    for path in _PATHS:
        routes.add_api_route(path, hand_on, methods=["POST"], operation_id=path.strip("/").replace("/", "_"))
    began = int(time.time())

    @routes.get("/v1/models")
    async def list_models(caller: CurrentCaller) -> ModelList:
        """Lists what the upstreams that are up serve, as far as the caller's plan has it."""
        names = filter(caller.may_use, relay.upstreams.models())
        return ModelList(data=[Model(id=name, created=began) for name in names])

    @routes.get("/v1/models/{name:path}")
    async def get_model(name: str, caller: CurrentCaller) -> Model:
        """Describes a model."""
        if not relay.upstreams.having(name) or not caller.may_use(name):
            raise not_there(name)
        return Model(id=name, created=began)

    return routes
