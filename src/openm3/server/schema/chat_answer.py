"""Responses of `POST /v1/chat/completions`, whole and in chunks."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from openm3.server.schema.chat import ToolCall
from openm3.server.schema.response import FinishReason, GenerationResponse, omitted_when_none


class ReasoningDetail(BaseModel):
    """A part of what was thought, as MiniMax's API writes it with `reasoning_split`."""

    type: Literal["reasoning.text"] = "reasoning.text"
    id: str
    format: Literal["MiniMax-response-v1"] = "MiniMax-response-v1"
    index: int = 0
    text: str


class TopLogprob(BaseModel):
    """A token that was likely at its place. `token` has U+FFFD where `bytes` are not whole characters."""

    token: str
    bytes: list[int]
    logprob: float


class ContentLogprob(TopLogprob):
    """A generated token."""

    top_logprobs: list[TopLogprob]


class Logprobs(BaseModel):
    """Log probabilities of the tokens of a choice or of a chunk of it."""

    content: list[ContentLogprob]
    refusal: None = None


class AssistantMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | None = omitted_when_none()
    reasoning_details: list[ReasoningDetail] | None = omitted_when_none()
    tool_calls: list[ToolCall] | None = omitted_when_none()


class Choice(BaseModel):
    """One of the `n` answers."""

    index: int
    message: AssistantMessage
    logprobs: Logprobs | None
    finish_reason: FinishReason


class Source(BaseModel):
    """Lines of a message, or of what the chat template writes around messages, whose `message` is null."""

    message: int | None
    first_line: int
    last_line: int


class Reference(BaseModel):
    """Tokens `start` to `stop - 1` of the prompt that a sentence was read from.

    `weight` is their share of what stood out for the sentence, `mass` their share of all attention.
    """

    weight: float
    mass: float
    start: int
    stop: int
    sources: list[Source]
    text: str


class EvidenceSentence(BaseModel):
    """A sentence of what was generated, its tokens, and what it was read from, weightiest first."""

    text: str
    start: int
    stop: int
    references: list[Reference]


class ChoiceEvidence(BaseModel):
    """The evidence of one of the `n` answers."""

    index: int
    sentences: list[EvidenceSentence]


class ReadingProgress(BaseModel):
    """Tokens of the messages that have been read for a choice, and all of them."""

    index: int
    read: int
    total: int


class Answered(BaseModel):
    """What `openm3` in the request asked for."""

    evidence: list[ChoiceEvidence] | None = omitted_when_none()
    progress: ReadingProgress | None = omitted_when_none()


class ChatCompletion(GenerationResponse):
    """A whole response."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[Choice]
    openm3: Answered | None = omitted_when_none()


class ToolCallDelta(ToolCall):
    """A call in a stream; it comes whole, in one chunk."""

    index: int


class MessageDelta(BaseModel):
    """What a chunk adds to the message: first the role, then thinking, text, whole calls."""

    role: Literal["assistant"] | None = omitted_when_none()
    content: str | None = omitted_when_none()
    reasoning_content: str | None = omitted_when_none()
    reasoning_details: list[ReasoningDetail] | None = omitted_when_none()
    tool_calls: list[ToolCallDelta] | None = omitted_when_none()


class ChunkChoice(BaseModel):
    """What a chunk adds to one of the `n` answers."""

    index: int
    delta: MessageDelta
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None


class ChatCompletionChunk(GenerationResponse):
    """One event of a stream."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChunkChoice]
    openm3: Answered | None = omitted_when_none()
