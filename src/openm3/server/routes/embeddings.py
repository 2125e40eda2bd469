"""`POST /v1/embeddings`."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from openm3.errors import InputError
from openm3.server.body import JsonRoute
from openm3.server.callers import Caller, caller_of
from openm3.server.disconnect import until_disconnect
from openm3.server.embedders import Embedder
from openm3.server.errors import ApiError
from openm3.server.schema.embeddings import MAX_TOKENS, Embedding, EmbeddingList, EmbeddingRequest, EmbeddingUsage
from openm3.server.schema.response import ErrorResponse

if TYPE_CHECKING:
    from torch import Tensor

_DEFAULT = "default"  # names the first embedder for clients that don't know it
_MAX_CHARACTERS = 8 * MAX_TOKENS  # more than tokens have, and few enough to be tokenized in a moment


def router(embedders: Sequence[Embedder]) -> APIRouter:
    """The endpoint that turns texts into vectors; clients choose among `embedders` by their names."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post(
        "/v1/embeddings",
        response_model=EmbeddingList,
        responses={"4XX": {"model": ErrorResponse}, "5XX": {"model": ErrorResponse}},
    )
    async def create(asked: EmbeddingRequest, request: Request) -> Response:
        """Turns each input into a vector."""
        body = await until_disconnect(request.receive, embed(embedders, asked, caller_of(request)))
        return Response(body, media_type="application/json")

    return routes


async def embed(embedders: Sequence[Embedder], asked: EmbeddingRequest, caller: Caller) -> str:
    """The response to a caller's request, as JSON; its tokens are reserved before any vector is computed.

    Raises:
        InputError: an input can't be read; names it.
        ApiError: another model is asked for, it can't be loaded, or a limit of the caller forbids it.
    """
    embedder = _choose(embedders, asked.model)
    inputs = asked.inputs()
    if sum(len(one) for one in inputs if isinstance(one, str)) > _MAX_CHARACTERS:
        raise InputError("input", f"is more than {_MAX_CHARACTERS:,} characters in all; send it in parts")
    sequences = await embedder.encode(inputs, truncate=asked.truncate)
    num_tokens = sum(map(len, sequences))
    if num_tokens > MAX_TOKENS:
        raise InputError("input", f"is {num_tokens:,} tokens in all, of at most {MAX_TOKENS:,}; send it in parts")
    most = await embedder.dimensions()
    if asked.dimensions is not None and asked.dimensions > most:
        raise InputError("dimensions", f"must be at most the {most} of {embedder.name}, got {asked.dimensions}")
    async with caller.reserve(embedder.name, num_tokens) as reservation:
        vectors = await embedder.embed(sequences, caller.share)
        await reservation.spend(num_tokens, 0)
    return await asyncio.to_thread(_response, vectors, asked, embedder.name, num_tokens)


def _choose(embedders: Sequence[Embedder], name: str) -> Embedder:
    for embedder in embedders:
        if name in (embedder.name, _DEFAULT):
            return embedder
    names = " and ".join(repr(embedder.name) for embedder in embedders)
    message = f"the embedding model {name!r} does not exist; this server has {names}"
    raise ApiError(404, message, code="model_not_found", param="model")


def _response(vectors_BE: Tensor, asked: EmbeddingRequest, name: str, num_tokens: int) -> str:
    """The vectors, cut to `dimensions` and made of length 1 again, in JSON."""
    from torch.nn.functional import normalize

    values = normalize(vectors_BE[:, : asked.dimensions], dim=-1).numpy().astype("<f4")
    base64_asked = asked.encoding_format == "base64"
    data = [
        Embedding(index=i, embedding=base64.b64encode(row.tobytes()).decode() if base64_asked else row.tolist())
        for i, row in enumerate(values)
    ]
    usage = EmbeddingUsage(prompt_tokens=num_tokens, total_tokens=num_tokens)
    return EmbeddingList(data=data, model=name, usage=usage).model_dump_json()
