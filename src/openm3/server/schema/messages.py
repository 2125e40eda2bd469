"""`POST /v1/messages` and `/v1/messages/count_tokens`: requests of the Anthropic API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Tag, model_validator

from openm3.errors import InputError
from openm3.server.schema.request import (
    TEXT_OR_LIST,
    Only,
    RequestModel,
    StopText,
    ToolName,
    Unsupported,
    by_type,
    wrong_field,
)


class CacheControl(RequestModel):
    """Asks that a prefix is kept. Every prefix is, as long as there is memory; so it changes nothing."""

    type: Annotated[Literal["ephemeral"], Only]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(RequestModel):
    """Text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: Unsupported = None


class Base64Source(RequestModel):
    """An image or a video itself."""

    type: Literal["base64"]
    media_type: str
    data: str


class UrlSource(RequestModel):
    """Where an image or a video is: a data URL, or an address that is fetched."""

    type: Literal["url"]
    url: str


Source = Annotated[Annotated[Base64Source, Tag("base64")] | Annotated[UrlSource, Tag("url")], by_type("base64", "url")]


class ImageBlock(RequestModel):
    """An image, for a model that sees."""

    type: Literal["image"]
    source: Source
    cache_control: CacheControl | None = None
    transformations: Unsupported = None


class VideoBlock(RequestModel):
    """A video, for a model that sees; MiniMax's addition."""

    type: Literal["video"]
    source: Source
    cache_control: CacheControl | None = None


class ThinkingBlock(RequestModel):
    """What the model thought in an earlier turn. Its signature is not checked: the model reads the text."""

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class ToolUseBlock(RequestModel):
    """A call of a tool in an earlier turn."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    cache_control: CacheControl | None = None
    caller: Unsupported = None
    toolset_name: Unsupported = None


ResultBlock = Annotated[
    Annotated[TextBlock, Tag("text")] | Annotated[ImageBlock, Tag("image")], by_type("text", "image")
]


class ToolResultBlock(RequestModel):
    """What a call gave. Of an error the model is told by the word before it."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Annotated[Annotated[str, Tag("text")] | Annotated[list[ResultBlock], Tag("list")], TEXT_OR_LIST] | None = (
        None
    )
    is_error: bool | None = None
    cache_control: CacheControl | None = None
    toolset_name: Unsupported = None


Block = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ImageBlock, Tag("image")]
    | Annotated[VideoBlock, Tag("video")]
    | Annotated[ThinkingBlock, Tag("thinking")]
    | Annotated[ToolUseBlock, Tag("tool_use")]
    | Annotated[ToolResultBlock, Tag("tool_result")],
    by_type("text", "image", "video", "thinking", "tool_use", "tool_result"),
]

_USERS = ("text", "image", "video", "tool_result")
_ASSISTANTS = ("text", "thinking", "tool_use")


class Message(RequestModel):
    """One turn."""

    role: Annotated[Literal["user", "assistant"], Only]
    content: Annotated[
        Annotated[str, Tag("text")] | Annotated[list[Block], Field(min_length=1), Tag("list")], TEXT_OR_LIST
    ]

    @model_validator(mode="after")
    def _check_blocks(self) -> Message:
        if not isinstance(self.content, str):
            allowed = _USERS if self.role == "user" else _ASSISTANTS
            for block in self.content:
                if block.type not in allowed:
                    raise wrong_field("content", f"a block of type {block.type!r} isn't for role {self.role!r}")
        return self


class Tool(RequestModel):
    """What the model may call; `input_schema` is a JSON Schema of its arguments."""

    type: Annotated[Literal["custom"] | None, Only] = None
    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    cache_control: CacheControl | None = None
    allowed_callers: Annotated[list[Literal["direct"]] | None, Only] = None
    defer_loading: Annotated[Literal[False] | None, Only] = None
    eager_input_streaming: Annotated[Literal[False] | None, Only] = None
    input_examples: Unsupported = None


class ToolChoice(RequestModel):
    """Whether tools are called: as the model likes, at least one, the one of `name`, or none."""

    type: Annotated[Literal["auto", "any", "tool", "none"], Only]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _check_name(self) -> ToolChoice:
        if (self.type == "tool") != (self.name is not None):
            raise wrong_field("name", "belongs to type 'tool', which needs it")
        return self


class Thinking(RequestModel):
    """Whether the model thinks before it answers: not, for at most `budget_tokens`, or as it likes ("adaptive")."""

    type: Annotated[Literal["disabled", "enabled", "adaptive"], Only]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    display: Annotated[Literal["summarized"] | None, Only] = None

    @model_validator(mode="after")
    def _check_budget(self) -> Thinking:
        if (self.type == "enabled") != (self.budget_tokens is not None):
            raise wrong_field("budget_tokens", "belongs to type 'enabled', which needs it")
        return self


class JsonFormat(RequestModel):
    """JSON that is valid by a schema."""

    type: Annotated[Literal["json_schema"], Only]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(RequestModel):
    """How hard the model thinks, as `reasoning_effort` of chat completions, and what the answer looks like."""

    effort: Annotated[Literal["low", "medium", "high", "xhigh", "max"] | None, Only] = None
    format: JsonFormat | None = None


class Metadata(RequestModel):
    """Of the caller: it changes nothing."""

    user_id: str | None = None


class CountRequest(RequestModel):
    """A conversation whose tokens are to be counted."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    system: (
        Annotated[
            Annotated[str, Tag("text")] | Annotated[list[TextBlock], Field(min_length=1), Tag("list")], TEXT_OR_LIST
        ]
        | None
    ) = None
    thinking: Thinking | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None

    prefill: Unsupported = None
    message: Unsupported = None
    speed: Annotated[Literal["standard"] | None, Only] = None
    user_profile_id: Unsupported = None
    workspace_id: Unsupported = None

    @model_validator(mode="after")
    def _check_together(self) -> CountRequest:
        if self.messages[-1].role != "user":
            raise InputError(
                "messages", "the last one has to be the user's: an answer that was begun isn't gone on with"
            )
        if self.thinking and self.output_config and self.output_config.effort:
            raise InputError("output_config.effort", "says how hard to think, as thinking does; give one of them")
        names = [tool.name for tool in self.tools or ()]
        if self.tool_choice and self.tool_choice.type != "none" and not names:
            raise InputError("tool_choice", "needs tools")
        if self.tool_choice and self.tool_choice.name is not None and self.tool_choice.name not in names:
            raise InputError("tool_choice.name", f"no tool has the name {self.tool_choice.name!r}")
        return self


class MessagesRequest(CountRequest):
    """A conversation to go on with."""

    max_tokens: Annotated[int, Field(ge=1)]
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: Annotated[list[StopText], Field(max_length=16)] | None = None
    stream: bool | None = None
    metadata: Metadata | None = None
    service_tier: Annotated[Literal["auto", "standard_only"] | None, Only] = None

    container: Unsupported = None
    context_management: Unsupported = None
    diagnostics: Unsupported = None
    inference_geo: Unsupported = None
    mcp_servers: Unsupported = None

    @model_validator(mode="after")
    def _check_budget(self) -> MessagesRequest:
        budget = self.thinking.budget_tokens if self.thinking else None
        if budget is not None and budget >= self.max_tokens:
            raise InputError("thinking.budget_tokens", f"must be less than max_tokens, which is {self.max_tokens}")
        return self
