"""A request of the Anthropic API as the chat completion that it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from openm3.server.answer import renamed
from openm3.server.conversation import Translated
from openm3.server.schema import chat, messages
from openm3.server.schema.request import JsonSchema, JsonSchemaFormat

_TOOL_CHOICES: dict[str, Literal["auto", "none", "required"]] = {"auto": "auto", "any": "required", "none": "none"}

# Of requests: what chat completions call by the first name, a caller of this API calls by the second.
_FIELDS = {
    "max_completion_tokens": "max_tokens",
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
}


def as_chat(asked: messages.CountRequest, *, thinks_unless_told: bool) -> tuple[chat.ChatRequest, dict[str, str]]:
    """The chat completion, and what the caller knows its fields as (`renamed`).

    Args:
        asked: without thinking in it nothing is thought, as in MiniMax's API.
        thinks_unless_told: so the model has to be told.
    """
    out = Translated(dict(_FIELDS))
    if asked.system is not None:
        out.add(chat.Message(role="system", content=_text(asked.system)), "system")
    for i, message in enumerate(asked.messages):
        add = _add_user if message.role == "user" else _add_assistant
        add(out, message, f"messages[{i}]")
    thinking = None
    if asked.thinking:
        thinking = chat.Thinking(type=asked.thinking.type, budget_tokens=asked.thinking.budget_tokens)
    elif thinks_unless_told and not (asked.output_config and asked.output_config.effort):
        thinking = chat.Thinking(type="disabled")
    config = asked.output_config
    schema = JsonSchema(name="answer", schema=config.format.schema_) if config and config.format else None
    with renamed(out.fields):
        request = chat.ChatRequest(
            model=asked.model,
            messages=out.messages,
            tools=[_tool(tool) for tool in asked.tools] if asked.tools else None,
            tool_choice=_tool_choice(asked.tool_choice),
            parallel_tool_calls=not (asked.tool_choice and asked.tool_choice.disable_parallel_tool_use),
            thinking=thinking,
            reasoning_effort=config.effort if config else None,
            response_format=JsonSchemaFormat(type="json_schema", json_schema=schema) if schema else None,
            **(_sampling(asked) if isinstance(asked, messages.MessagesRequest) else {}),
        )
    return request, out.fields


def _sampling(asked: messages.MessagesRequest) -> dict[str, Any]:
    return {
        "max_completion_tokens": asked.max_tokens,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": asked.top_k,
        "stop": asked.stop_sequences,
        "stream": asked.stream,
    }


def _text(content: str | Sequence[messages.TextBlock]) -> str:
    return content if isinstance(content, str) else "\n\n".join(block.text for block in content)


def _add_user(out: Translated, message: messages.Message, field: str) -> None:
    """Adds a user's turn: results of tools are messages of their own in a chat completion."""
    if isinstance(message.content, str):
        out.add(chat.Message(role="user", content=message.content), field)
        return
    parts: list[tuple[chat.ContentPart, str]] = []

    def add_parts(content: list[tuple[chat.ContentPart, str]], call_id: str | None = None) -> str:
        role: Literal["user", "tool"] = "user" if call_id is None else "tool"
        name = out.add(chat.Message(role=role, content=[part for part, _ in content], tool_call_id=call_id), field)
        for i, (part, place) in enumerate(content):
            out.fields[f"{name}.content[{i}]"] = place
            out.fields[f"{name}.content[{i}].{part.type}"] = f"{place}.source"
        return name

    for i, block in enumerate(message.content):
        place = f"{field}.content[{i}]"
        if not isinstance(block, messages.ToolResultBlock):
            parts.append((_part(block), place))
            continue
        if parts:
            add_parts(parts)
            parts = []
        result = block.content or ""
        given = [messages.TextBlock(type="text", text=result)] if isinstance(result, str) else result
        content = [(_part(each), f"{place}.content[{j}]") for j, each in enumerate(given)]
        if block.is_error:
            content.insert(0, (chat.TextPart(type="text", text="Error:"), place))
        empty: tuple[chat.ContentPart, str] = (chat.TextPart(type="text", text=""), place)
        name = add_parts(content or [empty], block.tool_use_id)
        out.fields[f"{name}.tool_call_id"] = f"{place}.tool_use_id"
    if parts:
        add_parts(parts)


def _add_assistant(out: Translated, message: messages.Message, field: str) -> None:
    if isinstance(message.content, str):
        out.add(chat.Message(role="assistant", content=message.content), field)
        return
    thoughts = [block.thinking for block in message.content if isinstance(block, messages.ThinkingBlock)]
    texts = [block.text for block in message.content if isinstance(block, messages.TextBlock)]
    calls = [
        chat.ToolCall(id=block.id, function=chat.CalledFunction(name=block.name, arguments=json.dumps(block.input)))
        for block in message.content
        if isinstance(block, messages.ToolUseBlock)
    ]
    out.add(
        chat.Message(
            role="assistant",
            content="".join(texts),
            reasoning_content="\n".join(thoughts) or None,
            tool_calls=calls or None,
        ),
        field,
    )


def _part(block: Any) -> chat.ContentPart:
    """Text, image or video as a part of a message."""
    match block:
        case messages.ImageBlock():
            return chat.ImagePart(type="image_url", image_url=chat.Image(url=_url(block.source)))
        case messages.VideoBlock():
            return chat.VideoPart(type="video_url", video_url=chat.Video(url=_url(block.source)))
    return chat.TextPart(type="text", text=block.text)


def _url(source: messages.Base64Source | messages.UrlSource) -> str:
    if isinstance(source, messages.UrlSource):
        return source.url
    return f"data:{source.media_type};base64,{source.data}"


def _tool(tool: messages.Tool) -> chat.Tool:
    function = chat.Function(
        name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict
    )
    return chat.Tool(type="function", function=function)


def _tool_choice(choice: messages.ToolChoice | None) -> Any:
    if choice is None:
        return None
    if choice.name is not None:
        return chat.NamedTool(type="function", function=chat.NamedFunction(name=choice.name))
    return _TOOL_CHOICES[choice.type]
