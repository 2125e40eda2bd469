"""`POST /v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, Tag, model_validator

from openm3.engine.params import MAX_LOGPROBS
from openm3.errors import InputError
from openm3.server.schema.request import TEXT_OR_LIST, GenerationRequest, Only, RequestModel, Unsupported
from openm3.server.schema.response import FinishReason, GenerationResponse, omitted_when_none


class TextPart(RequestModel):
    """A part of a message's content."""

    type: Annotated[Literal["text"], Only]
    text: str

    file: Unsupported = None
    image_url: Unsupported = None
    input_audio: Unsupported = None
    refusal: Unsupported = None
    video_url: Unsupported = None


Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[TextPart], Field(min_length=1), Tag("list")], TEXT_OR_LIST
]


class Message(RequestModel):
    """One turn. `developer` is the newer name of `system`."""

    role: Annotated[Literal["system", "developer", "user", "assistant"], Only]
    content: Content

    annotations: Unsupported = None
    audio: Unsupported = None
    function_call: Unsupported = None
    name: Unsupported = None
    refusal: Unsupported = None
    tool_call_id: Unsupported = None
    tool_calls: Unsupported = None

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates know it."""
        content = self.content
        return {
            "role": "system" if self.role == "developer" else self.role,
            "content": content if isinstance(content, str) else "\n".join(part.text for part in content),
        }


class ResponseFormat(RequestModel):
    """Plain text alone."""

    type: Literal["text"]


class ChatRequest(GenerationRequest):
    """A conversation to go on with."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    modalities: Annotated[list[Literal["text"]] | None, Only] = None
    response_format: Annotated[ResponseFormat | None, Only] = None
    service_tier: Annotated[Literal["auto", "default"] | None, Only] = None
    store: Annotated[Literal[False] | None, Only] = None
    audio: Unsupported = None
    function_call: Unsupported = None
    functions: Unsupported = None
    metadata: Unsupported = None
    moderation: Unsupported = None
    parallel_tool_calls: Unsupported = None
    prediction: Unsupported = None
    prompt_cache_key: Unsupported = None
    prompt_cache_options: Unsupported = None
    prompt_cache_retention: Unsupported = None
    reasoning_effort: Unsupported = None
    safety_identifier: Unsupported = None
    tool_choice: Unsupported = None
    tools: Unsupported = None
    verbosity: Unsupported = None
    web_search_options: Unsupported = None

    @model_validator(mode="after")
    def _check_together(self) -> ChatRequest:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise InputError("max_tokens", "is the older name of max_completion_tokens; give one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise InputError("top_logprobs", "needs logprobs to be true")
        return self


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
    content: str
    refusal: None = None


class Choice(BaseModel):
    """One of the `n` answers."""

    index: int
    message: AssistantMessage
    logprobs: Logprobs | None
    finish_reason: FinishReason


class ChatCompletion(GenerationResponse):
    """A whole response."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[Choice]


class MessageDelta(BaseModel):
    """What a chunk adds to the message: first the role, then text."""

    role: Literal["assistant"] | None = omitted_when_none()
    content: str | None = omitted_when_none()


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
