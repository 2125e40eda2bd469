"""`POST /v1/chat/completions`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from fastapi import APIRouter, Request, Response

from openm3.context.evidence import Sentence
from openm3.engine.output import TokenLogprob
from openm3.server.answer import Answer, renamed, respond
from openm3.server.body import JsonRoute
from openm3.server.routes.models import check_model
from openm3.server.schema import chat
from openm3.server.schema.response import ErrorResponse, Usage
from openm3.server.wording import ChunkWording, Piece, finite, readable
from openm3.text import parse

if TYPE_CHECKING:
    from openm3.engine.llm import LLM
    from openm3.engine.service import Service


def router(service: Service) -> APIRouter:
    """The endpoint that goes on with a conversation."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post(
        "/v1/chat/completions",
        response_model=chat.ChatCompletion,
        responses={"4XX": {"model": ErrorResponse}, "5XX": {"model": ErrorResponse}},
    )
    async def create(asked: chat.ChatRequest, request: Request) -> Response:
        """Answers the last message; with `stream`, as server-sent events."""
        return await respond(request, *await begin(service, asked), stream=bool(asked.stream))

    return routes


async def begin(service: Service, asked: chat.ChatRequest) -> tuple[Answer, ChatWording]:
    """The answer to a request, and its words.

    Raises:
        InputError: the request can't be served.
        ApiError: another model is asked for.
    """
    llm = service.llm
    check_model(asked.model, llm)
    with renamed(_FIELDS):
        params = asked.sampling(
            max_tokens=asked.max_completion_tokens or asked.max_tokens,
            logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
            evidence=bool(asked.openm3 and asked.openm3.evidence),
        )
        prompt = await asyncio.to_thread(
            llm.encode_chat,
            [message.for_template() for message in asked.messages],
            tools=asked.offered_tools(),
            thinking_mode=asked.thinking.type if asked.thinking else None,
        )
    return Answer(service, [prompt], params, _FIELDS), ChatWording(llm, include_usage=asked.include_usage)


# What the engine knows under the first name, the caller knows under the second.
_FIELDS = {"prompt": "messages", "thinking_mode": "thinking", "constraint": "response_format"}


class ChatWording(ChunkWording):
    """Messages, and deltas of messages."""

    def __init__(self, llm: LLM, *, include_usage: bool) -> None:
        super().__init__("chatcmpl", llm, include_usage=include_usage)

    def chunk(self, piece: Piece) -> chat.ChatCompletionChunk:
        if piece.is_opening:
            delta = chat.MessageDelta(role="assistant", content="")
        else:
            delta = chat.MessageDelta(
                content=piece.text or None,
                reasoning_content=piece.reasoning or None,
                tool_calls=[chat.ToolCallDelta(**_call(call), index=call.index) for call in piece.calls] or None,
            )
        choice = chat.ChunkChoice(
            index=piece.index,
            delta=delta,
            logprobs=_logprobs(piece.logprobs),
            finish_reason=piece.finish_reason,
        )
        return chat.ChatCompletionChunk(**self.header, choices=[choice], openm3=_evidence([piece]))

    def usage_chunk(self, usage: Usage) -> chat.ChatCompletionChunk:
        return chat.ChatCompletionChunk(**self.header, choices=[], usage=usage)

    def whole(self, choices: Iterable[Piece], usage: Usage) -> chat.ChatCompletion:
        pieces = list(choices)
        return chat.ChatCompletion(
            **self.header, choices=[_choice(piece) for piece in pieces], usage=usage, openm3=_evidence(pieces)
        )


def _choice(piece: Piece) -> chat.Choice:
    assert piece.finish_reason, "the service ended a stream without a reason"
    return chat.Choice(
        index=piece.index,
        message=chat.AssistantMessage(
            content=None if piece.calls and not piece.text else piece.text,
            reasoning_content=piece.reasoning or None,
            tool_calls=[chat.ToolCall(**_call(call)) for call in piece.calls] or None,
        ),
        logprobs=_logprobs(piece.logprobs),
        finish_reason=piece.finish_reason,
    )


def _evidence(pieces: Iterable[Piece]) -> chat.Answered | None:
    """The evidence of the choices that have some."""
    found = [
        chat.ChoiceEvidence(index=piece.index, sentences=[_sentence(each) for each in piece.evidence.sentences])
        for piece in pieces
        if piece.evidence is not None
    ]
    return chat.Answered(evidence=found) if found else None


def _sentence(sentence: Sentence) -> chat.EvidenceSentence:
    references = [
        chat.Reference(
            weight=one.weight,
            mass=one.mass,
            start=one.start,
            stop=one.stop,
            sources=[
                chat.Source(message=span.message, first_line=span.first_line, last_line=span.last_line)
                for span in one.spans
            ],
            text=one.text,
        )
        for one in sentence.references
    ]
    return chat.EvidenceSentence(text=sentence.text, start=sentence.start, stop=sentence.stop, references=references)


def _call(call: parse.ToolCall) -> dict[str, Any]:
    function = chat.CalledFunction(name=call.name, arguments=call.arguments)
    return {"id": f"call_{uuid4().hex}", "type": "function", "function": function}


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
