"""Tool calls of any model: by its server where that can, else in words that are read tolerantly.

A model thinks best in free text and calls best when nothing else can be written. So where the server takes a JSON
schema, the reply is free and only the call that follows is constrained. Elsewhere the call is a fenced block; the
notations that models were trained on are read too, wherever in the text they stand. Only tools that were offered
count: JSON about anything else is text.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from minimax_code.model import Message, Model, Reply, Request, ToolCall, ToolSpec
from minimax_code.skills.prompt import prompt_of

CallStyle = Literal["native", "constrained", "text"]

_JSON_BLOCKS = (
    re.compile(r"```(?:tool|tool_call|tool_code|json)[ \t]*\n(?P<json>.*?)(?:```|\Z)", re.DOTALL),
    re.compile(r"<tool_call>(?P<json>.*?)(?:</tool_call>|\Z)", re.DOTALL),
    re.compile(r"<function=(?P<name>[\w.-]+)>(?P<json>.*?)(?:</function>|\Z)", re.DOTALL),
    re.compile(r"\[TOOL_CALLS\](?P<json>.*)", re.DOTALL),
)
_INVOKE = re.compile(r"<invoke name=\"(?P<name>[^\"]+)\">(?P<body>.*?)</invoke>", re.DOTALL)
_PARAMETER = re.compile(r"<parameter name=\"([^\"]+)\">(.*?)</parameter>", re.DOTALL)
_WRAPPERS = re.compile(r"</?(?:minimax:tool_call|function_calls|tool_calls?)>")
_NAMES, _ARGUMENTS = ("name", "tool", "tool_name", "function"), ("arguments", "parameters", "args", "input")
_NO_TOOL = "none"
_CALL_TOKENS = 1024


async def reply_with_tools(model: Model, request: Request, style: CallStyle) -> Reply:
    """A model's reply to a request that offers tools, its calls found whichever way it makes them.

    Raises:
        ModelError: as of `Model.reply`.
    """
    if not request.tools:
        return await model.reply(request)
    if style == "native":
        reply = await model.reply(request)
        return reply if reply.calls else read_calls(reply, request)
    told = in_words(request)
    reply = read_calls(await model.reply(told), request)
    if reply.calls or style == "text":
        return reply
    return await _constrained(model, request, told, reply)


async def _constrained(model: Model, request: Request, told: Request, thought: Reply) -> Reply:
    """The call that follows what was thought, which may be none."""
    turn = (*told.messages, thought.message, Message(role="user", content=prompt_of("call_now")))
    max_tokens = max(request.max_tokens, _CALL_TOKENS)
    asked = told.model_copy(
        update={"messages": turn, "json_schema": call_schema(request.tools), "temperature": 0.0,
                "max_tokens": max_tokens, "stop": ()}
    )  # fmt: skip
    said = await model.reply(asked)
    calls = tuple(_calls_of(_value_in(said.content), request))
    usage = thought.usage + said.usage
    if not calls:
        return thought.model_copy(update={"usage": usage})
    return thought.model_copy(update={"calls": calls, "finish_reason": "tool_calls", "usage": usage})


def call_schema(tools: Sequence[ToolSpec]) -> dict[str, Any]:
    """The JSON schema of one call of one of the tools, or of "none"."""
    none = {"name": {"const": _NO_TOOL}, "arguments": {"type": "object", "additionalProperties": False}}
    kinds = [{"name": {"const": tool.name}, "arguments": dict(tool.parameters)} for tool in tools]
    return {
        "anyOf": [
            {"type": "object", "properties": kind, "required": ["name", "arguments"], "additionalProperties": False}
            for kind in (*kinds, none)
        ]
    }


def in_words(request: Request) -> Request:
    """The same request for a model that is told of tools in its system message; earlier calls and results are text."""
    tools = "\n".join(
        f"- {tool.name}: {tool.description}\n  arguments: {json.dumps(dict(tool.parameters))}" for tool in request.tools
    )
    messages = [_in_words(message) for message in request.messages]
    if not messages or messages[0].role != "system":
        messages.insert(0, Message(role="system"))
    system = "\n\n".join(part for part in (messages[0].content, prompt_of("tools", tools=tools)) if part)
    messages[0] = Message(role="system", content=system)
    return request.model_copy(update={"messages": tuple(messages), "tools": ()})


def _in_words(message: Message) -> Message:
    if message.role == "tool":
        return Message(role="user", content=f"Result of call {message.call_id}:\n{message.content}")
    if not message.calls:
        return message
    blocks = [
        f'```tool\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}\n```' for call in message.calls
    ]
    return Message(role=message.role, content="\n".join([message.content, *blocks]).strip())


def read_calls(reply: Reply, request: Request) -> Reply:
    """The reply with the calls that its text holds taken out of the text."""
    calls: list[ToolCall] = []
    left, end = [], 0
    for start, stop, found in _in_text(reply.content, request):
        if start < end:
            continue
        left.append(reply.content[end:start])
        calls += found
        end = stop
    if not calls:
        return reply
    first = sum(len(message.calls) for message in request.messages) + 1
    numbered = tuple(call.model_copy(update={"id": f"call_{first + i}"}) for i, call in enumerate(calls))
    content = _WRAPPERS.sub("", "".join([*left, reply.content[end:]])).strip()
    return reply.model_copy(update={"content": content, "calls": numbered, "finish_reason": "tool_calls"})


def _in_text(text: str, request: Request) -> list[tuple[int, int, list[ToolCall]]]:
    """Where calls stand in a text, in its order."""
    found: list[tuple[int, int, list[ToolCall]]] = []
    for block in _JSON_BLOCKS:
        for match in block.finditer(text):
            value = _value_in(match["json"])
            if "name" in block.groupindex:
                value = {"name": match["name"], "arguments": value}
            found.append((match.start(), match.end(), list(_calls_of(value, request))))
    for match in _INVOKE.finditer(text):
        arguments = {name: _argument(value.strip("\n")) for name, value in _PARAMETER.findall(match["body"])}
        value = {"name": match["name"], "arguments": arguments}
        found.append((match.start(), match.end(), list(_calls_of(value, request))))
    found = sorted((one for one in found if one[2]), key=lambda one: one[0])
    if found:
        return found
    start = text.find("{")
    if start < 0:
        return []
    value, length = _first_value(text[start:])
    calls = list(_calls_of(value, request))
    return [(start, start + length, calls)] if calls else []


def _calls_of(value: Any, request: Request) -> Iterator[ToolCall]:
    """The calls that a JSON value stands for; their ids are given later, when all are known."""
    offered = {tool.name for tool in request.tools}
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, dict):
            continue
        inner = one.get("function")
        one = inner if isinstance(inner, dict) else one
        name = next((one[key] for key in _NAMES if isinstance(one.get(key), str)), None)
        if name not in offered:
            continue
        arguments = next((one[key] for key in _ARGUMENTS if key in one), None)
        if arguments is None:  # {"tool": "read", "path": "a.py"}
            arguments = {key: given for key, given in one.items() if key not in _NAMES}
        if isinstance(arguments, str):
            arguments = _value_in(arguments)
        text = json.dumps(arguments if isinstance(arguments, dict) else {}, ensure_ascii=False)
        first = sum(len(message.calls) for message in request.messages) + 1
        yield ToolCall(id=f"call_{first}", name=name, arguments=text)


def _argument(text: str) -> Any:
    """An argument in XML: JSON where it is some other than a number or a word, else the text itself."""
    if not text.startswith(("{", "[")):
        return text
    value = _value_in(text)
    return text if value is None else value


def _value_in(text: str) -> Any:
    """The first value of a text that is JSON, or nearly; None where there is none."""
    starts = [place for place in (text.find("{"), text.find("[")) if place >= 0]
    return _first_value(text[min(starts) :])[0] if starts else None


def _first_value(text: str) -> tuple[Any, int]:
    """The value that a text begins with and its length; a dict of Python and trailing commas are read too."""
    decoder = json.JSONDecoder(strict=False)  # line breaks within strings are what models write
    length = _balanced(text)
    for attempt in (text, re.sub(r",(\s*[}\]])", r"\1", text[:length])):
        try:
            value, end = decoder.raw_decode(attempt)
            return value, end if attempt is text else length
        except (ValueError, RecursionError):
            continue
    try:
        return ast.literal_eval(text[:length]), length
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None, 0


def _balanced(text: str) -> int:
    """How far the brackets reach that a text begins with, strings left out."""
    depth, quote, escaped = 0, "", False
    for place, character in enumerate(text):
        if quote:
            escaped = character == "\\" and not escaped
            if character == quote and text[place - 1] != "\\":
                quote = ""
        elif character in "\"'":
            quote = character
        elif character in "{[":
            depth += 1
        elif character in "}]":
            depth -= 1
            if not depth:
                return place + 1
    return len(text)


def arguments_of(call: ToolCall) -> Mapping[str, Any] | None:
    """The arguments of a call as an object, read as tolerantly as calls are; None where they are none."""
    value = _value_in(call.arguments)
    return value if isinstance(value, dict) else None
