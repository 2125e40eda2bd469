"""How an endpoint says what was generated: what the wordings of all endpoints share."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pydantic import BaseModel

from openm3.context.evidence import Evidence
from openm3.engine.output import TokenLogprob
from openm3.server.errors import ApiError
from openm3.server.schema.chat_answer import ContentLogprob, TopLogprob
from openm3.server.schema.response import FinishReason, Usage
from openm3.text.parse import ToolCall

if TYPE_CHECKING:
    from openm3.engine.reader import Reader

# JSON has no -inf; the OpenAI API writes this for a token that can't occur.
_LEAST_LOGPROB = -9999.0


@dataclass(frozen=True)
class Piece:
    """What one event adds to a choice; a whole choice is a piece too.

    Attributes:
        index: of the choice; those of the first prompt come first.
        text: empty in a choice's first piece, which only says that its request was admitted.
        logprobs: of the tokens whose text this piece completes, if the request asked for them.
        finish_reason: set in the choice's last piece.
        reasoning: what the model thinks before the text.
        calls: the tools that it calls.
        evidence: in the choice's last piece, where it was asked for.
        stop: in the choice's last piece, the stop string that ended it.
        progress: tokens of the prompt that have been read, and all of them, where that was asked for.
    """

    index: int
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: FinishReason | None = None
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    evidence: Evidence | None = None
    stop: str | None = None
    progress: tuple[int, int] | None = None

    @property
    def is_opening(self) -> bool:
        """Whether this is its choice's first piece; every other one says something or has a reason."""
        return not (self.text or self.reasoning or self.calls or self.finish_reason or self.progress)

    @staticmethod
    def join(pieces: list[Piece]) -> Piece:
        """All pieces of a choice as one."""
        last = pieces[-1]
        logprobs = chain.from_iterable(piece.logprobs or () for piece in pieces)
        return replace(
            last,
            text="".join(piece.text for piece in pieces),
            reasoning="".join(piece.reasoning for piece in pieces),
            calls=tuple(chain.from_iterable(piece.calls for piece in pieces)),
            logprobs=None if last.logprobs is None else tuple(logprobs),
        )


class Wording(ABC):
    """The words of one endpoint for one response: whole, or as the events of a stream."""

    @abstractmethod
    def whole(self, choices: Iterable[Piece], usage: Usage) -> BaseModel:
        """The response that isn't streamed."""

    def begin(self, usage: Usage) -> Iterable[bytes]:
        """The events before all pieces."""
        return ()

    @abstractmethod
    def events(self, piece: Piece) -> Iterable[bytes]:
        """The events of a piece."""

    @abstractmethod
    def end(self, usage: Usage) -> Iterable[bytes]:
        """The events after all choices have ended."""

    @abstractmethod
    def failure(self, error: ApiError, request_id: str) -> Iterable[bytes]:
        """The events by which a stream ends that can't be completed."""


class ChunkWording(Wording):
    """The words of an endpoint whose stream is chunks of one kind, as those of the OpenAI API were first.

    `header` is what each of its objects begins with.

    Args:
        id_prefix: what the response's id begins with.
        llm: the model that answers.
        include_usage: the stream ends with a chunk that tells the tokens.
    """

    def __init__(self, id_prefix: str, llm: Reader, *, include_usage: bool) -> None:
        self._include_usage = include_usage
        self.header: dict[str, Any] = {
            "id": f"{id_prefix}-{uuid4().hex}",
            "created": int(time.time()),
            "model": llm.name,
            "system_fingerprint": f"fp_{llm.identity}",
        }

    @abstractmethod
    def chunk(self, piece: Piece) -> BaseModel | None:
        """A chunk; None if the endpoint has no words for this piece."""

    @abstractmethod
    def usage_chunk(self, usage: Usage) -> BaseModel:
        """The chunk that tells the tokens."""

    def events(self, piece: Piece) -> Iterable[bytes]:
        chunk = self.chunk(piece)
        return () if chunk is None else [sent_event(chunk)]

    def end(self, usage: Usage) -> Iterable[bytes]:
        if self._include_usage:
            yield sent_event(self.usage_chunk(usage))
        yield b"data: [DONE]\n\n"

    def failure(self, error: ApiError, request_id: str) -> Iterable[bytes]:
        return [b"data: " + error.body("openai", request_id) + b"\n\n"]


def sent_event(data: BaseModel, name: str = "") -> bytes:
    """A server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {data.model_dump_json()}\n\n".encode()


def readable(token: bytes) -> str:
    """A token as text, with U+FFFD for what is not a whole character."""
    return token.decode(errors="replace")


def finite(logprob: float) -> float:
    """A log probability that JSON can carry."""
    return max(logprob, _LEAST_LOGPROB)


def content_logprobs(logprobs: Iterable[TokenLogprob] | None) -> list[ContentLogprob]:
    """Log probabilities as the content of a message has them."""
    return [
        ContentLogprob(**_token(one), top_logprobs=[TopLogprob(**_token(top)) for top in one.top])
        for one in logprobs or ()
    ]


def _token(one: TokenLogprob) -> dict[str, Any]:
    return {"token": readable(one.token), "bytes": list(one.token), "logprob": finite(one.logprob)}
