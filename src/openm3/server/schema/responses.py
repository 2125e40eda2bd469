"""Requests of `POST /v1/responses`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from openm3.engine.params import MAX_LOGPROBS
from openm3.errors import InputError
from openm3.server.schema.chat import Effort
from openm3.server.schema.request import (
    TEXT_OR_LIST,
    UNSUPPORTED_FIELD,
    JsonObjectFormat,
    Only,
    RequestModel,
    TextFormat,
    ToolName,
    Unsupported,
    by_type,
    wrong_field,
)

Status = Literal["in_progress", "completed", "incomplete"]


class InputText(RequestModel):
    """Text."""

    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: Unsupported = None


class InputImage(RequestModel):
    """An image, for a model that sees: a data URL, or an address that is fetched."""

    type: Literal["input_image"]
    image_url: str
    detail: Annotated[Literal["auto", "low", "high"] | None, Only] = None
    file_id: Unsupported = None
    prompt_cache_breakpoint: Unsupported = None


class OutputText(RequestModel):
    """Text of an earlier answer, as it was given; its log probabilities say nothing to the model."""

    type: Literal["output_text"]
    text: str
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: list[Any] | None = None


InputPart = Annotated[
    Annotated[InputText, Tag("input_text")] | Annotated[InputImage, Tag("input_image")],
    by_type("input_text", "input_image"),
]
MessagePart = Annotated[
    Annotated[InputText, Tag("input_text")]
    | Annotated[InputImage, Tag("input_image")]
    | Annotated[OutputText, Tag("output_text")],
    by_type("input_text", "input_image", "output_text"),
]


class MessageItem(RequestModel):
    """A turn of somebody. `id`, `status` and `phase` are those that an answer was given with."""

    type: Literal["message"] = "message"
    role: Annotated[Literal["user", "assistant", "system", "developer"], Only]
    content: Annotated[
        Annotated[str, Tag("text")] | Annotated[list[MessagePart], Field(min_length=1), Tag("list")], TEXT_OR_LIST
    ]
    id: str | None = None
    status: Status | None = None
    phase: Literal["commentary", "final_answer"] | None = None

    @model_validator(mode="after")
    def _check_parts(self) -> MessageItem:
        parts = () if isinstance(self.content, str) else self.content
        if self.role == "assistant" and any(isinstance(part, InputImage) for part in parts):
            raise wrong_field("content", "an image isn't for role 'assistant'")
        return self

    @property
    def text(self) -> str:
        """The text of the content."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if not isinstance(part, InputImage))


class CallItem(RequestModel):
    """A call of a tool in an earlier answer."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None
    async_: Unsupported = Field(default=None, alias="async")
    caller: Unsupported = None
    namespace: Unsupported = None


class CallOutputItem(RequestModel):
    """What a call gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: Annotated[
        Annotated[str, Tag("text")] | Annotated[list[InputPart], Field(min_length=1), Tag("list")], TEXT_OR_LIST
    ]
    id: str | None = None
    status: Status | None = None
    caller: Unsupported = None
    name: Unsupported = None
    namespace: Unsupported = None


class ReasoningText(RequestModel):
    """What was thought."""

    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(RequestModel):
    """What was thought before an earlier answer: openly, in its content."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: Annotated[list[Any], Field(max_length=0)] | None = None
    content: list[ReasoningText] | None = None
    encrypted_content: Unsupported = None
    status: Status | None = None


def _item_kind(value: Any) -> str | None:
    kind = value.get("type", "message") if isinstance(value, dict) else getattr(value, "type", None)
    return kind if kind in ("message", "function_call", "function_call_output", "reasoning") else None


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[CallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(
        _item_kind,
        custom_error_type=UNSUPPORTED_FIELD,
        custom_error_message="must be of type 'message', 'function_call', 'function_call_output' or 'reasoning'",
    ),
]


class FunctionTool(RequestModel):
    """What the model may call. With `strict` its arguments are sure to be valid by `parameters`."""

    type: Annotated[Literal["function"], Only]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    allowed_callers: Annotated[list[Literal["direct"]] | None, Only] = None
    async_: Unsupported = Field(default=None, alias="async")
    defer_loading: Annotated[Literal[False] | None, Only] = None
    output_schema: Unsupported = None


class NamedTool(RequestModel):
    """The one tool that is to be called."""

    type: Annotated[Literal["function"], Only]
    name: ToolName


ToolChoice = Annotated[
    Annotated[Literal["auto", "none", "required"], Only, Tag("word")] | Annotated[NamedTool, Tag("named")],
    Discriminator(lambda value: "named" if isinstance(value, dict | NamedTool) else "word"),
]


class SchemaFormat(RequestModel):
    """JSON that is valid by a schema. It is always kept to, so `strict` makes no difference."""

    type: Literal["json_schema"]
    name: ToolName
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


Format = Annotated[
    Annotated[TextFormat, Tag("text")]
    | Annotated[JsonObjectFormat, Tag("json_object")]
    | Annotated[SchemaFormat, Tag("json_schema")],
    by_type("text", "json_object", "json_schema"),
]


class Text(RequestModel):
    """What the answer looks like."""

    format: Format | None = None
    verbosity: Unsupported = None


class Reasoning(RequestModel):
    """How hard the model thinks, as `reasoning_effort` of chat completions. What it thinks is told, not summarised."""

    effort: Annotated[Effort | None, Only] = None
    context: Unsupported = None
    generate_summary: Unsupported = None
    mode: Unsupported = None
    summary: Unsupported = None


class StreamOptions(RequestModel):
    """Padding against those who watch the sizes of events isn't there."""

    include_obfuscation: Annotated[Literal[False] | None, Only] = None


Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]


class ResponsesRequest(RequestModel):
    """A conversation to go on with: items, behind those of the response before it.

    `metadata`, `user`, `safety_identifier` and `prompt_cache_key` are the caller's: they come back, and change nothing.
    """

    model: str
    input: Annotated[
        Annotated[str, Tag("text")] | Annotated[list[Item], Field(min_length=1), Tag("list")], TEXT_OR_LIST
    ]
    instructions: str | None = None
    include: list[Annotated[Literal["message.output_text.logprobs"], Only]] | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    metadata: Metadata | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    prompt_cache_key: str | None = None
    reasoning: Reasoning | None = None
    safety_identifier: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    text: Text | None = None
    tool_choice: ToolChoice | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    top_p: float | None = None
    user: str | None = None

    background: Annotated[Literal[False] | None, Only] = None
    service_tier: Annotated[Literal["auto", "default"] | None, Only] = None
    truncation: Annotated[Literal["disabled"] | None, Only] = None
    access_programs: Unsupported = None
    background_options: Unsupported = None
    context_management: Unsupported = None
    conversation: Unsupported = None
    image: Unsupported = None
    max_tool_calls: Unsupported = None
    moderation: Unsupported = None
    prompt: Unsupported = None
    prompt_cache_options: Unsupported = None
    prompt_cache_retention: Unsupported = None

    @model_validator(mode="after")
    def _check_together(self) -> ResponsesRequest:
        if self.stream_options and not self.stream:
            raise InputError("stream_options", "needs stream to be true")
        if self.top_logprobs and not self.include:
            raise InputError("top_logprobs", "needs include to hold 'message.output_text.logprobs'")
        return self

    @property
    def items(self) -> list[Any]:
        """The items of the input."""
        text = self.input
        return [MessageItem(role="user", content=text)] if isinstance(text, str) else list(text)
