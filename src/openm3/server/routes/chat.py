"""`POST /v1/chat/completions`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response

from openm3.engine.output import TokenLogprob
from openm3.errors import InputError
from openm3.server.answer import Answer, respond
from openm3.server.body import JsonRoute
from openm3.server.routes.models import check_model
from openm3.server.schema import chat
from openm3.server.schema.response import ErrorResponse, Usage
from openm3.server.wording import Piece, Wording, finite, readable

if TYPE_CHECKING:
    from openm3.engine.llm import LLM
    from openm3.engine.service import Service


def router(service: Service) -> APIRouter:
    """The endpoint that goes on with a conversation."""
    routes = APIRouter(route_class=JsonRoute)
    llm = service.llm

    @routes.post(
        "/v1/chat/completions",
        response_model=chat.ChatCompletion,
        responses={"4XX": {"model": ErrorResponse}, "5XX": {"model": ErrorResponse}},
    )
    async def create(asked: chat.ChatRequest, request: Request) -> Response:
        """Answers the last message; with `stream`, as server-sent events."""
        check_model(asked.model, llm)
        params = asked.sampling(
            max_tokens=asked.max_completion_tokens or asked.max_tokens,
            logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        )
        messages = [message.for_template() for message in asked.messages]
        prompt_ids = await asyncio.to_thread(llm.encode_chat, messages)
        try:
            return await respond(request, asked, Answer(service, [prompt_ids], params), ChatWording(llm))
        except InputError as error:
            # What the engine knows as a prompt, the caller knows as messages.
            raise InputError("messages" if error.field == "prompt" else error.field, error.message) from error

    return routes


class ChatWording(Wording):
    """Messages, and deltas of messages."""

    def __init__(self, llm: LLM) -> None:
        super().__init__("chatcmpl", llm)

    def chunk(self, piece: Piece) -> chat.ChatCompletionChunk:
        if piece.is_opening:
            delta = chat.MessageDelta(role="assistant", content="")
        else:
            delta = chat.MessageDelta(content=piece.text or None)
        choice = chat.ChunkChoice(
            index=piece.index,
            delta=delta,
            logprobs=_logprobs(piece.logprobs),
            finish_reason=piece.finish_reason,
        )
        return chat.ChatCompletionChunk(**self.header, choices=[choice])

    def usage_chunk(self, usage: Usage) -> chat.ChatCompletionChunk:
        return chat.ChatCompletionChunk(**self.header, choices=[], usage=usage)

    def whole(self, choices: Iterable[Piece], usage: Usage) -> chat.ChatCompletion:
        return chat.ChatCompletion(**self.header, choices=[_choice(piece) for piece in choices], usage=usage)


def _choice(piece: Piece) -> chat.Choice:
    assert piece.finish_reason, "the service ended a stream without a reason"
    return chat.Choice(
        index=piece.index,
        message=chat.AssistantMessage(content=piece.text),
        logprobs=_logprobs(piece.logprobs),
        finish_reason=piece.finish_reason,
    )


def _logprobs(logprobs: Iterable[TokenLogprob] | None) -> chat.Logprobs | None:
    if logprobs is None:
        return None
    content = [
        chat.ContentLogprob(**_token(one), top_logprobs=[chat.TopLogprob(**_token(top)) for top in one.top])
        for one in logprobs
    ]
    return chat.Logprobs(content=content)


def _token(one: TokenLogprob) -> dict[str, Any]:
    return {"token": readable(one.token), "bytes": list(one.token), "logprob": finite(one.logprob)}
