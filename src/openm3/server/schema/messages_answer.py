"""Responses and stream events of `/v1/messages`, as in the Anthropic API."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class Text(BaseModel):
    """A block of the answer's text."""

    type: Literal["text"] = "text"
    text: str
    citations: None = None


class Thought(BaseModel):
    """A block of what the model thought. The signature is a digest of the text."""

    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str


class ToolUse(BaseModel):
    """A call of a tool."""

    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: dict[str, Any]


Block = Text | Thought | ToolUse


class OutputDetails(BaseModel):
    """`thinking_tokens` are part of `output_tokens`."""

    thinking_tokens: int


class Usage(BaseModel):
    """Tokens: `input_tokens` are those that were read, `cache_read_input_tokens` those that were known."""

    input_tokens: int
    cache_creation_input_tokens: Literal[0] = 0
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputDetails


class Message(BaseModel):
    """A whole response."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[Block]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: Usage


class TokenCount(BaseModel):
    """The tokens of a prompt."""

    input_tokens: int


class MessageStart(BaseModel):
    """The first event: the message, which has nothing yet."""

    type: Literal["message_start"] = "message_start"
    message: Message


class Ping(BaseModel):
    """Says that the stream is alive."""

    type: Literal["ping"] = "ping"


class BlockStart(BaseModel):
    """A block begins."""

    type: Literal["content_block_start"] = "content_block_start"
    index: int
    content_block: Block


class TextDelta(BaseModel):
    """More of a text."""

    type: Literal["text_delta"] = "text_delta"
    text: str


class ThinkingDelta(BaseModel):
    """More of what is thought."""

    type: Literal["thinking_delta"] = "thinking_delta"
    thinking: str


class SignatureDelta(BaseModel):
    """The signature of what was thought."""

    type: Literal["signature_delta"] = "signature_delta"
    signature: str


class InputDelta(BaseModel):
    """The arguments of a call, which come whole."""

    type: Literal["input_json_delta"] = "input_json_delta"
    partial_json: str


class BlockDelta(BaseModel):
    """More of a block."""

    type: Literal["content_block_delta"] = "content_block_delta"
    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputDelta


class BlockStop(BaseModel):
    """A block is whole."""

    type: Literal["content_block_stop"] = "content_block_stop"
    index: int


class Ending(BaseModel):
    """Why the message ended, and the stop sequence if it was one."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(BaseModel):
    """The message ends; the tokens are those of all of it."""

    type: Literal["message_delta"] = "message_delta"
    delta: Ending
    usage: Usage


class MessageStop(BaseModel):
    """The last event."""

    type: Literal["message_stop"] = "message_stop"


StreamEvent = MessageStart | Ping | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop
