"""Requests of `POST /v1/chat/completions`."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from openm3.engine.params import MAX_LOGPROBS
from openm3.errors import InputError
from openm3.server.schema.request import (
    TEXT_OR_LIST,
    GenerationRequest,
    Only,
    RequestModel,
    ToolName,
    Unsupported,
    by_type,
    missing_field,
    wrong_field,
)
from openm3.text.grammar import Constraint

THINK_BEGIN, THINK_END = "<think>", "</think>"
"""What thinking stands between in a content, whatever the model's own markers are."""


class Image(RequestModel):
    """`url` is a data URL, or an address that is fetched if everybody can reach it."""

    url: str
    detail: str | None = None
    max_long_side_pixel: Unsupported = None


class Video(RequestModel):
    """`url` is that of an image. `fps` frames of a second are looked at."""

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


ContentPart = Annotated[
    Annotated[TextPart, Tag("text")] | Annotated[ImagePart, Tag("image_url")] | Annotated[VideoPart, Tag("video_url")],
    by_type("text", "image_url", "video_url"),
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


class ReasoningDetail(RequestModel):
    """A part of what was thought, as MiniMax's API writes it with `reasoning_split`."""

    type: Annotated[Literal["reasoning.text"], Only] = "reasoning.text"
    id: str | None = None
    format: str | None = None
    index: int | None = None
    text: str


class Message(RequestModel):
    """One turn. `developer` is the newer name of `system`; `tool` brings the result of a call."""

    role: Annotated[Literal["system", "developer", "user", "assistant", "tool"], Only]
    content: Content | None = None
    reasoning_content: str | None = None
    reasoning_details: list[ReasoningDetail] | None = None
    tool_call_id: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(min_length=1)] | None = None

    annotations: Unsupported = None
    audio: Unsupported = None
    function_call: Unsupported = None
    name: Unsupported = None
    refusal: Unsupported = None

    def for_template(self, *, inline: bool) -> dict[str, Any]:
        """The message as chat templates know it.

        Args:
            inline: thinking stands in the content, as an answer was given with `reasoning_split` false.
        """
        role = "system" if self.role == "developer" else self.role
        message = self.model_dump(exclude_none=True, exclude={"reasoning_details"})
        if self.reasoning_details and self.reasoning_content is None:
            message["reasoning_content"] = "".join(detail.text for detail in self.reasoning_details)
        if inline and role == "assistant" and isinstance(self.content, str):
            thinking, end, rest = self.content.removeprefix(THINK_BEGIN).partition(THINK_END)
            if end and self.content.startswith(THINK_BEGIN):
                message |= {"reasoning_content": thinking, "content": rest}
        return {"content": None, **message, "role": role}

    @model_validator(mode="after")
    def _check_role(self) -> Message:
        if self.role != "assistant":
            for name in ("reasoning_content", "reasoning_details", "tool_calls"):
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

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(RequestModel):
    """What the model may call."""

    type: Annotated[Literal["function"], Only]
    function: Function


class NamedFunction(RequestModel):
    """The name of a tool."""

    name: ToolName


class NamedTool(RequestModel):
    """The one tool that is to be called."""

    type: Annotated[Literal["function"], Only]
    function: NamedFunction


def _choice_kind(value: Any) -> str:
    return "named" if isinstance(value, dict | NamedTool) else "word"


ToolChoice = Annotated[
    Annotated[Literal["auto", "none", "required"], Only, Tag("word")] | Annotated[NamedTool, Tag("named")],
    Discriminator(_choice_kind),
]
"""Whether tools are called: as the model likes, never, at least one, or this one."""

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
# The mode of thinking, and the most tokens of it.
_EFFORTS: dict[Effort, tuple[str, int | None]] = {
    "none": ("disabled", None),
    "minimal": ("adaptive", 512),
    "low": ("adaptive", 2048),
    "medium": ("adaptive", None),
    "high": ("enabled", None),
    "xhigh": ("enabled", None),
    "max": ("enabled", None),
}


class Thinking(RequestModel):
    """Whether the model thinks before it answers; with "adaptive" it decides itself.

    After `budget_tokens` its thinking is brought to an end.
    """

    type: Annotated[Literal["enabled", "disabled", "adaptive"], Only]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _check_budget(self) -> Thinking:
        if self.type == "disabled" and self.budget_tokens is not None:
            raise wrong_field("budget_tokens", "doesn't go with type 'disabled'")
        return self


class Extensions(RequestModel):
    """What the OpenAI API doesn't have.

    `evidence`: which parts of the messages each sentence was read from. `progress`: a stream tells how far the messages
    have been read.
    """

    evidence: bool | None = None
    progress: bool | None = None


class ChatRequest(GenerationRequest):
    """A conversation to go on with.

    `safety_identifier` says who asks, and prefixes are known without `prompt_cache_key`: both change nothing.
    """

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: Annotated[list[Tool], Field(min_length=1, max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    reasoning_effort: Annotated[Effort | None, Only] = None
    parallel_tool_calls: bool | None = None
    reasoning_split: bool | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    openm3: Extensions | None = None

    modalities: Annotated[list[Literal["text"]] | None, Only] = None
    service_tier: Annotated[Literal["auto", "default"] | None, Only] = None
    store: Annotated[Literal[False] | None, Only] = None
    audio: Unsupported = None
    function_call: Unsupported = None
    functions: Unsupported = None
    metadata: Unsupported = None
    moderation: Unsupported = None
    prediction: Unsupported = None
    prompt_cache_options: Unsupported = None
    prompt_cache_retention: Unsupported = None
    verbosity: Unsupported = None
    web_search_options: Unsupported = None

    @model_validator(mode="after")
    def _check_together(self) -> ChatRequest:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise InputError("max_tokens", "is the older name of max_completion_tokens; give one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise InputError("top_logprobs", "needs logprobs to be true")
        if self.openm3 and self.openm3.progress and not self.stream:
            raise InputError("openm3.progress", "needs stream to be true")
        if self.thinking is not None and self.reasoning_effort is not None:
            raise InputError("reasoning_effort", "says how hard to think, as thinking does; give one of them")
        names = [tool.function.name for tool in self.tools or ()]
        if self.tool_choice not in (None, "auto", "none") and not names:
            raise InputError("tool_choice", "needs tools")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise InputError("tool_choice", f"no tool has the name {self.tool_choice.function.name!r}")
        if len(set(names)) < len(names):
            raise InputError("tools", "two of them have the same name")
        call_ids: set[str] = set()
        for i, message in enumerate(self.messages):
            if message.role == "tool" and message.tool_call_id not in call_ids:
                name = f"messages[{i}].tool_call_id"
                raise InputError(name, f"no message before it has the tool call {message.tool_call_id!r}")
            call_ids.update(call.id for call in message.tool_calls or ())
        return self

    @property
    def thinks(self) -> tuple[str | None, int | None]:
        """The mode of thinking and the most tokens of it, where the request says."""
        if self.reasoning_effort is not None:
            return _EFFORTS[self.reasoning_effort]
        return (self.thinking.type, self.thinking.budget_tokens) if self.thinking else (None, None)

    @property
    def engine_fields(self) -> dict[str, str]:
        """What the engine knows under the first name, under the second."""
        thinking = "thinking" if self.reasoning_effort is None else "reasoning_effort"
        return {
            "prompt": "messages",
            "thinking_mode": thinking,
            "max_thinking": f"{thinking}.budget_tokens" if self.thinking else thinking,
            "constraint": "response_format" if self.offered_tools() is None else "tools",
        }

    def constraint(self) -> Constraint | None:
        """What the answer has to look like: calls, where they are asked for or have to be strict."""
        choice, tools = self.tool_choice or "auto", self.offered_tools()
        if tools is None:
            return super().constraint()
        many = self.parallel_tool_calls is not False
        if isinstance(choice, NamedTool):
            tools = [tool for tool in tools if tool["function"]["name"] == choice.function.name]
            return Constraint.tool_calls(tools, required=True, many=False)
        if choice == "required":
            return Constraint.tool_calls(tools, required=True, many=many)
        text = super().constraint()
        if text is None and not any(tool["function"].get("strict") for tool in tools):
            return None
        if text is not None and text.kind != "json_schema":
            raise InputError("response_format", f"of type {text.kind!r} doesn't go with tools; leave one of them out")
        schema = None if text is None else json.loads(text.source)
        return Constraint.tool_calls(tools, required=False, many=many, text=schema)

    def offered_tools(self) -> list[dict[str, Any]] | None:
        """The tools that the model is told of."""
        if self.tool_choice == "none" or self.tools is None:
            return None
        return [tool.model_dump(exclude_none=True) for tool in self.tools]
