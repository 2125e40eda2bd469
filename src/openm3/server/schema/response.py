"""What every response shares."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

FinishReason = Literal["stop", "length", "tool_calls"]


def omitted_when_none() -> Any:
    """A field that is left out, where the OpenAI API leaves it out, and not written as null."""
    return Field(default=None, exclude_if=lambda value: value is None)


class PromptDetails(BaseModel):
    """`cached_tokens` are those of the prompts that an earlier request had read."""

    cached_tokens: int


class CompletionDetails(BaseModel):
    """`reasoning_tokens` are those that were thought before the answers."""

    reasoning_tokens: int


class Usage(BaseModel):
    """Tokens of a request. A prompt counts once, however many choices were made from it.

    `dropped_tokens` are those of prompts and answers that went when the window was full, where the server compacts it.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails
    dropped_tokens: int | None = omitted_when_none()


class GenerationResponse(BaseModel):
    """The fields that chat and plain completions share, whole or in chunks."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage | None = omitted_when_none()


class ErrorDetail(BaseModel):
    """`param` is the field that is wrong; `code` says what is wrong in a word for programs."""

    message: str
    type: str
    param: str | None
    code: str


class BaseResp(BaseModel):
    """What went wrong as a published code of MiniMax's API."""

    status_code: int
    status_msg: str


class ErrorResponse(BaseModel):
    """The body of every response that is not a success, and of a stream's error event."""

    error: ErrorDetail
    base_resp: BaseResp


class AnthropicDetail(BaseModel):
    """What is wrong, in the Anthropic API's words."""

    type: str
    message: str


class AnthropicError(BaseModel):
    """The body of every response that is not a success on the paths of the Anthropic API."""

    type: Literal["error"] = "error"
    error: AnthropicDetail
    request_id: str
    base_resp: BaseResp


def documented(failure: type[BaseModel], *, streams: bool = False) -> dict[int | str, dict[str, Any]]:
    """What the API's document says of an endpoint's answers besides its response model."""
    failures: dict[int | str, dict[str, Any]] = {"4XX": {"model": failure}, "5XX": {"model": failure}}
    if not streams:
        return failures
    event = {
        "type": "object",
        "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
        "required": ["data"],
    }
    events = {"text/event-stream": {"schema": event}}
    return {200: {"description": "The answer, or with `stream` its events.", "content": events}, **failures}
