"""`GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from openm3.server.schema.response import omitted_when_none


class Model(BaseModel):
    """A served model; `max_model_len` (vLLM's name) is the longest prompt and answer together, in tokens,
    where that is known.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "openm3"
    max_model_len: int | None = omitted_when_none()


class ModelList(BaseModel):
    """Every served model."""

    object: Literal["list"] = "list"
    data: list[Model]
