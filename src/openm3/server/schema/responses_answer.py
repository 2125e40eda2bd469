"""Responses and stream events of `/v1/responses`, as in the OpenAI API."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from openm3.server.schema.chat_answer import ContentLogprob

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class OutputText(BaseModel):
    """Text of the answer."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = Field(default_factory=list, max_length=0)
    logprobs: list[ContentLogprob] = Field(default_factory=list)


class ReasoningText(BaseModel):
    """What the model thought."""

    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


class OutputMessage(BaseModel):
    """The answer's text."""

    type: Literal["message"] = "message"
    id: str
    role: Literal["assistant"] = "assistant"
    status: Status
    content: list[OutputText]


class Reasoning(BaseModel):
    """What the model thought, openly."""

    type: Literal["reasoning"] = "reasoning"
    id: str
    summary: list[Any] = Field(default_factory=list, max_length=0)
    content: list[ReasoningText]
    status: Status


class Call(BaseModel):
    """A call of a tool."""

    type: Literal["function_call"] = "function_call"
    id: str
    call_id: str
    name: str
    arguments: str
    status: Status


OutputItem = OutputMessage | Reasoning | Call


class InputDetails(BaseModel):
    """`cached_tokens` are those that an earlier request had read."""

    cached_tokens: int
    cache_write_tokens: Literal[0] = 0


class OutputDetails(BaseModel):
    """`reasoning_tokens` are those that were thought before the answer."""

    reasoning_tokens: int


class Usage(BaseModel):
    """Tokens of a request."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Failure(BaseModel):
    """Why a response failed."""

    code: Literal["server_error"] = "server_error"
    message: str


class Incomplete(BaseModel):
    """Why a response isn't whole."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class Response(BaseModel):
    """A response; what was asked for comes back with it."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None
    status: Status
    background: Literal[False] = False
    error: Failure | None
    incomplete_details: Incomplete | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None = None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: Literal["default"] = "default"
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: Usage | None
    user: str | None


class Deleted(BaseModel):
    """A response that was forgotten."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class Event(BaseModel):
    """An event of a stream; `sequence_number` counts them from 0."""

    type: str
    sequence_number: int


class ResponseEvent(Event):
    """The response is created, in progress, completed, incomplete or failed."""

    response: Response


class ItemEvent(Event):
    """An item is added, or done."""

    output_index: int
    item: OutputItem


class PartEvent(Event):
    """A part of an item's content is added, or done."""

    item_id: str
    output_index: int
    content_index: Literal[0] = 0
    part: OutputText | ReasoningText


class DeltaEvent(Event):
    """More of a text; only that of an answer has log probabilities."""

    item_id: str
    output_index: int
    content_index: Literal[0] = 0
    delta: str
    logprobs: list[ContentLogprob] | None = Field(default=None, exclude_if=lambda value: value is None)


class DoneEvent(Event):
    """A text is whole; only that of an answer has log probabilities."""

    item_id: str
    output_index: int
    content_index: Literal[0] = 0
    text: str
    logprobs: list[ContentLogprob] | None = Field(default=None, exclude_if=lambda value: value is None)


class ArgumentsDelta(Event):
    """The arguments of a call, which come whole."""

    item_id: str
    output_index: int
    delta: str


class ArgumentsDone(Event):
    """The arguments of a call are whole."""

    item_id: str
    output_index: int
    name: str
    arguments: str


class ErrorEvent(Event):
    """The response can't be completed."""

    code: str
    message: str
    param: str | None
