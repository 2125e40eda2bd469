"""`POST /v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator

from openm3.engine.params import MAX_LOGPROBS
from openm3.errors import InputError
from openm3.server.schema.request import (
    TEXT_OR_LIST,
    UNSUPPORTED_FIELD,
    GenerationRequest,
    Only,
    RequestModel,
    Unsupported,
    missing_field,
    wrong_field,
)
from openm3.server.schema.response import FinishReason, GenerationResponse, omitted_when_none


class Image(RequestModel):
    """`url` is a data URL; nothing is fetched."""

    url: str
    detail: str | None = None
    max_long_side_pixel: Unsupported = None


class Video(RequestModel):
    """`url` is a data URL; nothing is fetched. `fps` frames of a second are looked at."""

    url: str
    fps: float | None = None
    detail: Unsupported = None


class TextPart(RequestModel):
    """Text in a message's content."""

    type: Literal["text"]
    text: str


class ImagePart(RequestModel):
    """An image in a message's content, for a model that sees."""

    type: Literal["image_url"]
    image_url: Image


class VideoPart(RequestModel):
    """A video in a message's content, for a model that sees."""

    type: Literal["video_url"]
    video_url: Video


def _part_kind(part: Any) -> str | None:
    kind = part.get("type") if isinstance(part, dict) else None
    return kind if kind in ("text", "image_url", "video_url") else None


ContentPart = Annotated[
    Annotated[TextPart, Tag("text")] | Annotated[ImagePart, Tag("image_url")] | Annotated[VideoPart, Tag("video_url")],
    Discriminator(
        _part_kind,
        custom_error_type=UNSUPPORTED_FIELD,
        custom_error_message="must be a part of type 'text', 'image_url' or 'video_url'",
    ),
]
Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[ContentPart], Field(min_length=1), Tag("list")], TEXT_OR_LIST
]


class CalledFunction(RequestModel):
    """`arguments` are a JSON object, as text."""

    name: str
    arguments: str


class ToolCall(RequestModel):
    """A call of a tool, in an answer and in the message that gives the answer back."""

    id: str
    type: Annotated[Literal["function"], Only] = "function"
    function: CalledFunction


class Message(RequestModel):
    """One turn. `developer` is the newer name of `system`; `tool` brings the result of a call."""

    role: Annotated[Literal["system", "developer", "user", "assistant", "tool"], Only]
    content: Content | None = None
    reasoning_content: str | None = None
    tool_call_id: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(min_length=1)] | None = None

    annotations: Unsupported = None
    audio: Unsupported = None
    function_call: Unsupported = None
    name: Unsupported = None
    refusal: Unsupported = None

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates know it."""
        role = "system" if self.role == "developer" else self.role
        return {"content": None, **self.model_dump(exclude_none=True), "role": role}

    @model_validator(mode="after")
    def _check_role(self) -> Message:
        if self.role != "assistant":
            for name in ("reasoning_content", "tool_calls"):
                if getattr(self, name) is not None:
                    raise wrong_field(name, f"belongs to the assistant's messages, not to role {self.role!r}")
        if self.role != "tool" and self.tool_call_id is not None:
            raise wrong_field("tool_call_id", f"belongs to role 'tool', not to {self.role!r}")
        if self.role == "tool" and self.tool_call_id is None:
            raise missing_field("tool_call_id")
        if self.content is None and not self.tool_calls:
            raise missing_field("content")
        return self


class Function(RequestModel):
    """What a tool does; `parameters` is a JSON Schema of its arguments."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Annotated[Literal[False] | None, Only] = None


class Tool(RequestModel):
    """What the model may call."""

    type: Annotated[Literal["function"], Only]
    function: Function


class Thinking(RequestModel):
    """Whether the model thinks before it answers; with "adaptive" it decides itself."""

    type: Annotated[Literal["enabled", "disabled", "adaptive"], Only]


class Extensions(RequestModel):
    """What the OpenAI API doesn't have. `evidence`: which parts of the messages each sentence was read from."""

    evidence: bool | None = None


class ChatRequest(GenerationRequest):
    """A conversation to go on with."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: Annotated[list[Tool], Field(min_length=1, max_length=128)] | None = None
    tool_choice: Annotated[Literal["auto", "none"] | None, Only] = None
    thinking: Thinking | None = None
    openm3: Extensions | None = None

    modalities: Annotated[list[Literal["text"]] | None, Only] = None
    service_tier: Annotated[Literal["auto", "default"] | None, Only] = None
    store: Annotated[Literal[False] | None, Only] = None
    audio: Unsupported = None
    function_call: Unsupported = None
    functions: Unsupported = None
    metadata: Unsupported = None
    moderation: Unsupported = None
    parallel_tool_calls: Annotated[Literal[True] | None, Only] = None
    prediction: Unsupported = None
    prompt_cache_key: Unsupported = None
    prompt_cache_options: Unsupported = None
    prompt_cache_retention: Unsupported = None
    reasoning_effort: Unsupported = None
    safety_identifier: Unsupported = None
    verbosity: Unsupported = None
    web_search_options: Unsupported = None

    @model_validator(mode="after")
    def _check_together(self) -> ChatRequest:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise InputError("max_tokens", "is the older name of max_completion_tokens; give one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise InputError("top_logprobs", "needs logprobs to be true")
        call_ids: set[str] = set()
        for i, message in enumerate(self.messages):
            if message.role == "tool" and message.tool_call_id not in call_ids:
                name = f"messages[{i}].tool_call_id"
                raise InputError(name, f"no message before it has the tool call {message.tool_call_id!r}")
            call_ids.update(call.id for call in message.tool_calls or ())
        return self

    def offered_tools(self) -> list[dict[str, Any]] | None:
        """The tools that the model is told of."""
        if self.tool_choice == "none" or self.tools is None:
            return None
        return [tool.model_dump(exclude_none=True) for tool in self.tools]


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


class Answered(BaseModel):
    """What `openm3` in the request asked for."""

    evidence: list[ChoiceEvidence]


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
