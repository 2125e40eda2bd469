"""`POST /v1/completions`."""

from __future__ import annotations

import asyncio
import codecs
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from openm3.engine.output import TokenLogprob
from openm3.server.answer import Answer, respond
from openm3.server.body import JsonRoute
from openm3.server.routes.models import check_model
from openm3.server.schema import completions
from openm3.server.schema.response import ErrorResponse, Usage, documented
from openm3.server.wording import ChunkWording, Piece, finite, readable

if TYPE_CHECKING:
    from openm3.engine.reader import Reader
    from openm3.server.backend import Backend

_DEFAULT_MAX_TOKENS = 16


def router(service: Backend) -> APIRouter:
    """The endpoint that goes on with plain texts."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post(
        "/v1/completions",
        response_model=completions.Completion,
        responses=documented(ErrorResponse, streams=True),
    )
    async def create(asked: completions.CompletionRequest, request: Request) -> Response:
        """Goes on with each prompt; with `stream`, as server-sent events."""
        return await respond(request, *await begin(service, asked), stream=bool(asked.stream))

    return routes


async def begin(service: Backend, asked: completions.CompletionRequest) -> tuple[Answer, CompletionWording]:
    """The answer to a request, and its words.

    Raises:
        InputError: the request can't be served.
        ApiError: another model is asked for.
    """
    llm = service.llm
    check_model(asked.model, llm)
    params = asked.sampling(
        max_tokens=_DEFAULT_MAX_TOKENS if asked.max_tokens is None else asked.max_tokens,
        logprobs=asked.logprobs,
    )
    prompts = [
        await asyncio.to_thread(llm.encode, prompt) if isinstance(prompt, str) else prompt for prompt in asked.prompts()
    ]
    return Answer(service, prompts, params, {"constraint": "response_format"}), CompletionWording(
        llm, include_usage=asked.include_usage
    )


class CompletionWording(ChunkWording):
    """Texts, whole or in pieces, in the same object."""

    def __init__(self, llm: Reader, *, include_usage: bool) -> None:
        super().__init__("cmpl", llm, include_usage=include_usage)
        self._offsets: defaultdict[int, _Offset] = defaultdict(_Offset)

    def chunk(self, piece: Piece) -> completions.Completion | None:
        return None if piece.is_opening else self._completion([piece])

    def usage_chunk(self, usage: Usage) -> completions.Completion:
        return self._completion([], usage)

    def whole(self, choices: Iterable[Piece], usage: Usage) -> completions.Completion:
        return self._completion(choices, usage)

    def _completion(self, choices: Iterable[Piece], usage: Usage | None = None) -> completions.Completion:
        return completions.Completion(
            **self.header,
            choices=[
                completions.Choice(
                    index=piece.index,
                    text=piece.text,
                    logprobs=self._logprobs(piece.index, piece.logprobs),
                    finish_reason=piece.finish_reason,
                )
                for piece in choices
            ],
            usage=usage,
        )

    def _logprobs(self, index: int, logprobs: Iterable[TokenLogprob] | None) -> completions.Logprobs | None:
        if logprobs is None:
            return None
        tokens = tuple(logprobs)
        return completions.Logprobs(
            text_offset=[self._offsets[index].advance(one.token) for one in tokens],
            token_logprobs=[finite(one.logprob) for one in tokens],
            tokens=[readable(one.token) for one in tokens],
            top_logprobs=[{readable(top.token): finite(top.logprob) for top in one.top} for one in tokens],
        )


class _Offset:
    """Where the next token of a choice begins in its text, in characters."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_characters = 0

    def advance(self, token: bytes) -> int:
        begin = self._num_characters
        self._num_characters += len(self._decoder.decode(token))
        return begin
