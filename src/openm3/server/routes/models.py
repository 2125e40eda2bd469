"""`GET /v1/models` and `GET /v1/models/{id}`, and what a request may call the served model."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fastapi import APIRouter

from openm3.server.callers import CurrentCaller
from openm3.server.errors import ApiError
from openm3.server.schema.models import Model, ModelList
from openm3.server.schema.response import ErrorResponse, documented

if TYPE_CHECKING:
    from openm3.engine.reader import Reader
    from openm3.server.backend import Backend

ALIASES = ("default", "minimax-m3", "m3-pro")
"""What clients may call the served model that don't know its name, in any case of letters."""


def check_model(name: str, llm: Reader) -> None:
    """Refuses a request for a model that isn't served.

    Raises:
        ApiError: 404, as the OpenAI API answers.
    """
    if name != llm.name and name.lower() not in ALIASES:
        message = f"the model {name!r} does not exist; this server has {llm.name!r}"
        raise ApiError(404, message, code="model_not_found", param="model")


def not_there(name: str) -> ApiError:
    """What is said of a model that a caller can't use."""
    return ApiError(404, f"the model {name!r} does not exist", code="model_not_found", param="model")


def router(service: Backend) -> APIRouter:
    """The endpoints that list models."""
    routes = APIRouter()
    llm = service.llm
    served = Model(id=llm.name, created=int(time.time()), max_model_len=llm.max_context)

    @routes.get("/v1/models")
    async def list_models(caller: CurrentCaller) -> ModelList:
        """Lists the served model, where the caller's plan has it."""
        return ModelList(data=[served] if caller.may_use(llm.name) else [])

    # A model's name may hold slashes, as ids of the Hugging Face hub do.
    @routes.get("/v1/models/{name:path}", responses=documented(ErrorResponse))
    async def get_model(name: str, caller: CurrentCaller) -> Model:
        """Describes the served model."""
        check_model(name, llm)
        if not caller.may_use(llm.name):
            raise not_there(name)
        return served

    return routes
