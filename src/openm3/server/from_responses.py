"""A request for a response of the OpenAI API as the chat completion that it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openm3.server.answer import renamed
from openm3.server.conversation import Translated
from openm3.server.schema import chat, responses
from openm3.server.schema.request import JsonObjectFormat, JsonSchema, JsonSchemaFormat, ResponseFormat

# What chat completions call by the first name, a caller of this endpoint calls by the second.
_FIELDS = {
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "messages": "input",
}


def as_chat(asked: responses.ResponsesRequest, before: Sequence[Any] = ()) -> tuple[chat.ChatRequest, dict[str, str]]:
    """The chat completion, and what the caller knows its fields as (`renamed`).

    Args:
        asked: the request.
        before: the items of the responses before it.
    """
    out = Translated(dict(_FIELDS))
    if asked.instructions is not None:
        out.add(chat.Message(role="system", content=asked.instructions), "instructions")
    named = [(item, "previous_response_id") for item in before]
    named += [(item, f"input[{i}]") for i, item in enumerate(asked.items)]
    turn: list[tuple[Any, str]] = []  # the items of one turn of the assistant
    for item, field in named:
        if _is_assistants(item):
            turn.append((item, field))
            continue
        _add_assistant(out, turn)
        turn = []
        _add(out, item, field)
    _add_assistant(out, turn)
    with_logprobs = bool(asked.include)
    with renamed(out.fields):
        request = chat.ChatRequest(
            model=asked.model,
            messages=out.messages,
            tools=[_tool(tool) for tool in asked.tools] if asked.tools else None,
            tool_choice=_tool_choice(asked.tool_choice),
            parallel_tool_calls=asked.parallel_tool_calls,
            reasoning_effort=asked.reasoning.effort if asked.reasoning else None,
            response_format=_format(asked.text.format if asked.text else None),
            max_completion_tokens=asked.max_output_tokens,
            temperature=asked.temperature,
            top_p=asked.top_p,
            logprobs=with_logprobs,
            top_logprobs=asked.top_logprobs if with_logprobs else None,
            stream=asked.stream,
        )
    return request, out.fields


def _is_assistants(item: Any) -> bool:
    if isinstance(item, responses.MessageItem):
        return item.role == "assistant"
    return isinstance(item, responses.CallItem | responses.ReasoningItem)


def _add(out: Translated, item: responses.MessageItem | responses.CallOutputItem, field: str) -> None:
    """Adds a message of the user or the system, or what a call gave."""
    if isinstance(item, responses.CallOutputItem):
        name = out.add(chat.Message(role="tool", content=_content(item.output), tool_call_id=item.call_id), field)
        out.fields[f"{name}.tool_call_id"] = f"{field}.call_id"
        out.fields[f"{name}.content"] = f"{field}.output"
    else:
        name = out.add(chat.Message(role=item.role, content=_content(item.content)), field)


def _add_assistant(out: Translated, turn: Sequence[tuple[Any, str]]) -> None:
    """Adds what the model thought, said and called as one message."""
    if not turn:
        return
    thoughts, texts, calls = list[str](), list[str](), list[chat.ToolCall]()
    for item, _ in turn:
        match item:
            case responses.ReasoningItem():
                thoughts += [part.text for part in item.content or ()]
            case responses.CallItem():
                function = chat.CalledFunction(name=item.name, arguments=item.arguments)
                calls.append(chat.ToolCall(id=item.call_id, function=function))
            case responses.MessageItem():
                texts.append(item.text)
    message = chat.Message(
        role="assistant",
        content="\n\n".join(texts),
        reasoning_content="\n".join(thoughts) or None,
        tool_calls=calls or None,
    )
    out.add(message, turn[0][1])


def _content(content: str | Sequence[Any]) -> Any:
    if isinstance(content, str):
        return content
    parts: list[Any] = list(content)
    return [
        chat.ImagePart(type="image_url", image_url=chat.Image(url=part.image_url, detail=part.detail))
        if isinstance(part, responses.InputImage)
        else chat.TextPart(type="text", text=part.text)
        for part in parts
    ]


def _tool(tool: responses.FunctionTool) -> chat.Tool:
    function = chat.Function(
        name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict
    )
    return chat.Tool(type="function", function=function)


def _tool_choice(choice: Any) -> Any:
    if isinstance(choice, responses.NamedTool):
        return chat.NamedTool(type="function", function=chat.NamedFunction(name=choice.name))
    return choice


def _format(asked: responses.Format | None) -> ResponseFormat | None:
    match asked:
        case JsonObjectFormat():
            return asked
        case responses.SchemaFormat():
            schema = JsonSchema(name=asked.name, schema=asked.schema_)
            return JsonSchemaFormat(type="json_schema", json_schema=schema)
    return None
