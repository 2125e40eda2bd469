"""Tool calls as models write them, read while they arrive.

M3 (every tag behind the namespace marker, here `~`):

    ~<tool_call>
    ~<invoke name="search">~<query>cats~</query>~<where>~<item>web~</item>~</where>~</invoke>
    ~</tool_call>

A tag is an argument's name; nested tags are an object, repeated `item` tags a list. Hermes and Qwen write
`<tool_call>{"name": "search", "arguments": {"query": "cats"}}</tool_call>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, Protocol

from openm3.errors import InputError
from openm3.text import m3
from openm3.text.scan import Scanner

Schema = Mapping[str, Any]
# (tool, arguments)
Call = tuple[str, dict[str, Any]]
State = Literal["open", "closed", "broken"]

# Tags within tags; no schema of a real tool comes near.
MAX_DEPTH = 64
_MAX_REFERENCES = 64  # of one schema to the next
_INVOKE = re.compile(r'invoke\s+name="([^"]+)"\s*')


class CallReader(Protocol):
    """Reads one block of calls: from after `opening` to the end of the block.

    Attributes:
        opening: the marker by which a block begins.
        state: "closed" at the end of the block; "broken" when it isn't one.
        unread: the text of the block since the last complete call.
    """

    opening: str
    state: State
    unread: str

    def begin(self) -> None:
        """At the start of a block; `opening` was taken."""

    def read(self, scanner: Scanner) -> Call | None:
        """The next complete call; None when the block needs more text, is closed or broken."""


class JsonReader:
    """A JSON object with `name` and `arguments` between `<tool_call>` tags."""

    opening = "<tool_call>"
    closing = "</tool_call>"

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.state: State = "open"
        self.unread = self.opening

    def read(self, scanner: Scanner) -> Call | None:
        if self.state != "open":
            return None
        text, closing = scanner.take([self.closing])
        self.unread += text + (closing or "")
        if closing is None:
            return None
        self.state = "closed"
        value = _json(self.unread[len(self.opening) : -len(closing)])
        if isinstance(value, dict) and {"name"} <= value.keys() <= {"name", "arguments"}:
            name, arguments = value["name"], value.get("arguments", {})
            if isinstance(name, str) and isinstance(arguments, dict):
                self.unread = ""
                return name, arguments
        self.state = "broken"
        return None


@dataclass
class _Element:
    """An open tag: text so far, or the elements within."""

    name: str
    text: str = ""
    children: list[_Element] = field(default_factory=list)


class M3Reader:
    """Nested tags behind M3's namespace marker; `tools` as in an API request, for the types of arguments."""

    opening = f"{m3.NAMESPACE}<tool_call>"
    _tag = f"{m3.NAMESPACE}<"

    def __init__(self, tools: Sequence[Mapping[str, Any]]) -> None:
        self._schemas: dict[str, Schema] = {}
        for tool in tools:
            function = tool.get("function", tool)
            if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
                raise InputError("tools", "each needs a function with a name")
            self._schemas[function["name"]] = _part(function, "parameters", {})
        self.begin()

    def begin(self) -> None:
        self.state: State = "open"
        self.unread = self.opening
        self._in_tag = False
        self._tag_text = ""
        self._stack: list[_Element] = []  # the invoke, and the arguments open within it

    def read(self, scanner: Scanner) -> Call | None:
        while self.state == "open":
            text, marker = scanner.take([">"] if self._in_tag else [self._tag])
            if self._in_tag:
                self._tag_text += text
            elif (length := self._content(text)) < len(text):
                self.unread += text[:length]
                scanner.unread(text[length:] + (marker or ""))
                self.state = "broken"
                return None
            self.unread += text + (marker or "")
            if marker is None:
                return None
            self._in_tag = not self._in_tag
            if marker == ">":
                tag, self._tag_text = self._tag_text, ""
                if not tag.startswith("/"):
                    self._open(tag)
                elif call := self._close(tag[1:]):
                    self.unread = ""
                    return call
        return None

    def _content(self, text: str) -> int:
        """Takes text between tags; how much of it may stand there."""
        if len(self._stack) > 1 and not self._stack[-1].children:
            self._stack[-1].text += text
            return len(text)
        return len(text) - len(text.lstrip())

    def _open(self, tag: str) -> None:
        if not self._stack:
            invoke = _INVOKE.fullmatch(tag)
            if invoke:
                self._stack.append(_Element(invoke[1]))
            else:
                self.state = "broken"
            return
        parent = self._stack[-1]
        if not tag or "<" in tag or parent.text.strip() or len(self._stack) > MAX_DEPTH:
            self.state = "broken"
            return
        element = _Element(tag)
        parent.children.append(element)
        self._stack.append(element)

    def _close(self, tag: str) -> Call | None:
        if not self._stack:
            self.state = "closed" if tag == "tool_call" else "broken"
            return None
        element = self._stack.pop()
        if tag != (element.name if self._stack else "invoke"):
            self.state = "broken"
            return None
        if self._stack:
            return None
        try:
            schema = self._schemas.get(element.name, {})
            return element.name, _object(element, schema, schema)
        except _TwiceError:
            self.state = "broken"
            return None


def call_reader(syntax: Literal["m3", "json"], tools: Sequence[Mapping[str, Any]]) -> CallReader:
    """The reader of a syntax (`Dialect.tools`)."""
    return M3Reader(tools) if syntax == "m3" else JsonReader()


class _TwiceError(ValueError):
    """An argument was given twice."""


def resolved(schema: Schema, root: Schema) -> Schema:
    """The schema that `schema` refers to within `root`; itself where it is none of `#/a/b`, or refers to none."""
    target: Any = schema
    for _ in range(_MAX_REFERENCES):
        reference = target.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return target
        target = root
        for key in reference.removeprefix("#/").split("/"):
            target = target.get(key) if isinstance(target, Mapping) else None
        if not isinstance(target, Mapping):
            return {}
    return {}


def _object(element: _Element, schema: Schema, root: Schema) -> dict[str, Any]:
    properties = _part(schema, "properties", root)
    value: dict[str, Any] = {}
    for child in element.children:
        if child.name in value:
            raise _TwiceError(child.name)
        value[child.name] = _value(child, _part(properties, child.name, root), root)
    return value


def _value(element: _Element, schema: Schema, root: Schema) -> Any:
    """What an element stands for: its tags, else its text by the schema's type, else JSON, else text."""
    types = _types(schema)
    if element.children:
        if "object" not in types and all(child.name == "item" for child in element.children):
            return [_value(child, _part(schema, "items", root), root) for child in element.children]
        return _object(element, schema, root)
    if "string" in types:
        return element.text
    if not element.text.strip():
        return [] if "array" in types else {} if "object" in types else element.text
    value = _json(element.text)
    return element.text if value is _NO_JSON else value


def _part(schema: Schema, key: str, root: Schema) -> Schema:
    """A schema within a schema; empty, which allows everything, where there is none."""
    part = schema.get(key)
    return resolved(part, root) if isinstance(part, Mapping) else {}


def _types(schema: Schema) -> set[str]:
    """The JSON types that a schema allows; empty where it doesn't say."""
    options = [schema, *(option for key in ("anyOf", "oneOf") for option in schema.get(key) or ())]
    stated = [option.get("type") for option in options if isinstance(option, Mapping)]
    flat = [name for names in stated for name in (names if isinstance(names, list) else [names])]
    texts = ["string" for value in schema.get("enum") or () if isinstance(value, str)]
    return {name for name in [*flat, *texts] if isinstance(name, str)}


_NO_JSON = object()


def _json(text: str) -> Any:
    """The value that `text` writes, or `_NO_JSON`."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _NO_JSON


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
