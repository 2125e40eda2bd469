"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from fastapi import APIRouter, Request, Response

from openm3.context.evidence import Sentence
from openm3.server.answer import Answer, respond
from openm3.server.body import JsonRoute
from openm3.server.conversation import converse
from openm3.server.schema import chat
from openm3.server.schema import chat_answer as said
from openm3.server.schema.response import ErrorResponse, Usage, documented
from openm3.server.wording import ChunkWording, Piece, content_logprobs
from openm3.text import parse

if TYPE_CHECKING:
    from openm3.engine.reader import Reader
    from openm3.server.backend import Backend


def router(service: Backend) -> APIRouter:
    """The endpoint that goes on with a conversation."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post(
        "/v1/chat/completions",
        response_model=said.ChatCompletion,
        responses=documented(ErrorResponse, streams=True),
    )
    async def create(asked: chat.ChatRequest, request: Request) -> Response:
        """Answers the last message; with `stream`, as server-sent events."""
        return await respond(request, *await begin(service, asked), stream=bool(asked.stream))

    return routes


async def begin(service: Backend, asked: chat.ChatRequest) -> tuple[Answer, ChatWording]:
    """The answer to a request, and its words.

    Raises:
        InputError: the request can't be served.
        ApiError: another model is asked for.
    """
    answer, _ = await converse(service, asked)
    return answer, ChatWording(service.llm, include_usage=asked.include_usage, split=asked.reasoning_split)


class ChatWording(ChunkWording):
    """Messages, and deltas of messages.

    Args:
        llm: the model that answers.
        include_usage: as of `ChunkWording`.
        split: how thinking is told: in a field of its own, with true in `reasoning_details` too, as MiniMax's API has
            it; with false in the content.
    """

    def __init__(self, llm: Reader, *, include_usage: bool, split: bool | None = None) -> None:
        super().__init__("chatcmpl", llm, include_usage=include_usage)
        self._split = split
        self._thinking = set[int]()  # choices whose thinking is open in their content

    def chunk(self, piece: Piece) -> said.ChatCompletionChunk:
        piece = self._inlined(piece)
        if piece.is_opening:
            delta = said.MessageDelta(role="assistant", content="")
        else:
            delta = said.MessageDelta(
                content=piece.text or None,
                **self._reasoning(piece),
                tool_calls=[said.ToolCallDelta(**_call(call), index=call.index) for call in piece.calls] or None,
            )
        choice = said.ChunkChoice(
            index=piece.index,
            delta=delta,
            logprobs=_logprobs(piece),
            finish_reason=piece.finish_reason,
        )
        return said.ChatCompletionChunk(**self.header, choices=[choice], openm3=_progress(piece) or _evidence([piece]))

    def usage_chunk(self, usage: Usage) -> said.ChatCompletionChunk:
        return said.ChatCompletionChunk(**self.header, choices=[], usage=usage)

    def whole(self, choices: Iterable[Piece], usage: Usage) -> said.ChatCompletion:
        pieces = [self._inlined(piece) for piece in choices]
        return said.ChatCompletion(
            **self.header, choices=[self._choice(piece) for piece in pieces], usage=usage, openm3=_evidence(pieces)
        )

    def _choice(self, piece: Piece) -> said.Choice:
        assert piece.finish_reason, "the service ended a stream without a reason"
        return said.Choice(
            index=piece.index,
            message=said.AssistantMessage(
                content=None if piece.calls and not piece.text else piece.text,
                **self._reasoning(piece),
                tool_calls=[chat.ToolCall(**_call(call)) for call in piece.calls] or None,
            ),
            logprobs=_logprobs(piece),
            finish_reason=piece.finish_reason,
        )

    def _reasoning(self, piece: Piece) -> dict[str, Any]:
        """The fields that tell what was thought."""
        if not piece.reasoning:
            return {}
        details = [said.ReasoningDetail(id=f"reasoning-{piece.index}", text=piece.reasoning)] if self._split else None
        return {"reasoning_content": piece.reasoning, "reasoning_details": details}

    def _inlined(self, piece: Piece) -> Piece:
        """The piece with its thinking in the text, where the caller wants it so."""
        if self._split is not False or piece.is_opening:
            return piece
        thought = piece.reasoning
        if thought and piece.index not in self._thinking:
            self._thinking.add(piece.index)
            thought = chat.THINK_BEGIN + thought
        if piece.index in self._thinking and (piece.text or piece.calls or piece.finish_reason):
            self._thinking.discard(piece.index)
            thought += chat.THINK_END
        return replace(piece, text=thought + piece.text, reasoning="")


def _progress(piece: Piece) -> said.Answered | None:
    """How far the prompt has been read, in a piece that tells that alone."""
    if piece.progress is None:
        return None
    read, total = piece.progress
    return said.Answered(progress=said.ReadingProgress(index=piece.index, read=read, total=total))


def _evidence(pieces: Iterable[Piece]) -> said.Answered | None:
    """The evidence of the choices that have some."""
    found = [
        said.ChoiceEvidence(index=piece.index, sentences=[_sentence(each) for each in piece.evidence.sentences])
        for piece in pieces
        if piece.evidence is not None
    ]
    return said.Answered(evidence=found) if found else None


def _sentence(sentence: Sentence) -> said.EvidenceSentence:
    references = [
        said.Reference(
            weight=one.weight,
            mass=one.mass,
            start=one.start,
            stop=one.stop,
            sources=[
                said.Source(message=span.message, first_line=span.first_line, last_line=span.last_line)
                for span in one.spans
            ],
            text=one.text,
        )
        for one in sentence.references
    ]
    return said.EvidenceSentence(text=sentence.text, start=sentence.start, stop=sentence.stop, references=references)


def _call(call: parse.ToolCall) -> dict[str, Any]:
    function = chat.CalledFunction(name=call.name, arguments=call.arguments)
    return {"id": f"call_{uuid4().hex}", "type": "function", "function": function}


def _logprobs(piece: Piece) -> said.Logprobs | None:
    return None if piece.logprobs is None else said.Logprobs(content=content_logprobs(piece.logprobs))
