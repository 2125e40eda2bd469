"""The grammar of an answer that calls tools: their names, and arguments by their schemas, as the dialect writes them.

Notation is llguidance's Lark. In M3's, where every tag stands behind the namespace marker (`~`), arguments come in the
order of the schema's properties:

    start: "\\n"{0,2} ~ "<tool_call>\\n" invoke_0+ ~ "</tool_call>"
    invoke_0: ~ "<invoke name=\\"add\\">" (~ "<a>" %json {"type": "integer"} ~ "</a>") ~ "</invoke>\\n"
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openm3.errors import InputError
from openm3.text import m3
from openm3.text.calls import JsonReader, M3Reader, Schema, resolved
from openm3.text.dialect import Dialect

_ANY = "/(?s:.*)/"
_SPACE = '"\\n"{0,2}'  # models begin and part their calls with line breaks
# JSON as Python writes it: nothing to choose but what it says.
_COMPACT = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}


@dataclass(frozen=True)
class Tool:
    """A tool that may be called; `parameters` is the schema of its arguments."""

    name: str
    parameters: Schema


def call_grammar(
    dialect: Dialect,
    token_id: Callable[[str], int | None],
    tools: Sequence[Tool],
    *,
    required: bool,
    many: bool,
    text: Schema | None = None,
) -> str:
    """The grammar of an answer.

    Args:
        dialect: how calls are written.
        token_id: the id of a marker that is a token of its own.
        tools: what may be called.
        required: nothing but calls; else text may come before them, or instead.
        many: more than one call may come.
        text: where calls aren't required, the schema of an answer that has none; such an answer is JSON.

    Raises:
        InputError: the dialect has no calls, or can't write arguments by a schema.
    """
    notations: dict[str | None, type[_M3Calls] | type[_JsonCalls]] = {"m3": _M3Calls, "json": _JsonCalls}
    if dialect.tools not in notations:
        raise InputError("tools", "this model's chat template knows no tool calls; leave them out")
    calls = notations[dialect.tools](token_id)
    block = calls.block(tools, many=many)
    opening = calls.opening
    if required:
        start = f"{_SPACE} {opening} {block}"
    elif text is not None:
        start = f"%json {json.dumps(text)} | {_SPACE} {opening} {block}"
    else:
        start = f"TEXT | {calls.up_to(opening)} {block}"
    return "\n".join([f"start: {start}", f"TEXT: {_ANY}", *calls.rules])


class _Calls:
    """What both notations share: rules, and markers that may be tokens of their own."""

    def __init__(self, token_id: Callable[[str], int | None]) -> None:
        self.rules: list[str] = []
        self._token_id = token_id

    def marker(self, text: str) -> str:
        """A marker, as the token that it is or as text."""
        token = self._token_id(text)
        return _literal(text) if token is None else f"<[{token}]>"

    def rule(self, body: str, attributes: str = "") -> str:
        """The name of a new rule."""
        name = f"rule_{len(self.rules)}"
        self.rules.append(f"{name}{attributes}: {body}")
        return name

    def up_to(self, marker: str, text: str = _ANY) -> str:
        """Text, then the marker that ends it."""
        if marker.startswith("<["):
            return self.rule(f"{self._terminal(text)} {marker}")
        return self.rule(f"{text} {marker}", "[lazy]")

    def _terminal(self, text: str) -> str:
        name = f"TEXT_{len(self.rules)}"
        self.rules.append(f"{name}: {text}")
        return name


class _JsonCalls(_Calls):
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, a block for each call."""

    @property
    def opening(self) -> str:
        """What calls begin with."""
        return self.marker(JsonReader.opening)

    def block(self, tools: Sequence[Tool], *, many: bool) -> str:
        """What follows the opening."""
        bodies = [self.rule(f"%json {json.dumps(_called(tool))}") for tool in tools]
        call = f'"\\n" ({" | ".join(bodies)}) "\\n" {self.marker(JsonReader.closing)}'
        return f"{call} ({_SPACE} {self.opening} {call})*" if many else call


class _M3Calls(_Calls):
    """Nested tags behind the namespace marker, one block for all calls."""

    def __init__(self, token_id: Callable[[str], int | None]) -> None:
        super().__init__(token_id)
        self._tag = self.marker(m3.NAMESPACE)
        self._known: dict[str, str] = {}  # rules of values by the name that schemas refer to

    @property
    def opening(self) -> str:
        """What calls begin with."""
        return self._tag

    def block(self, tools: Sequence[Tool], *, many: bool) -> str:
        """What follows the opening."""
        invokes = []
        for tool in tools:
            self._known.clear()
            arguments = self._elements(tool.parameters, tool.parameters)
            name = _literal(f'<invoke name="{tool.name}">')
            invokes.append(self.rule(f'{self._tag} {name} {arguments} {self._tag} "</invoke>\\n"'))
        rest = M3Reader.opening.removeprefix(m3.NAMESPACE)
        return f'{_literal(rest)} "\\n" ({" | ".join(invokes)}){"+" if many else ""} {self._tag} "</tool_call>"'

    def _elements(self, schema: Schema, root: Schema) -> str:
        """An object's properties, each between its tags."""
        required, properties = _given(schema, "required", list, []), _given(schema, "properties", dict, {})
        return " ".join(
            f"({self._element(name, each, root)}){'' if name in required else '?'}"
            for name, each in properties.items()
            if isinstance(each, Mapping)
        )

    def _element(self, name: str, schema: Schema, root: Schema) -> str:
        if any(char in name for char in "<>\n") or not name:
            raise InputError("tools", f"an argument can't have the name {name!r}: this model writes names as tags")
        return f"{self._tag} {_literal(f'<{name}>')} {self._value(schema, root)} {_literal(f'</{name}>')}"

    def _value(self, schema: Schema, root: Schema) -> str:
        """A value and the namespace marker behind it."""
        reference = schema.get("$ref")
        if isinstance(reference, str):
            if reference not in self._known:
                self._known[reference] = name = f"value_{len(self._known)}_{len(self.rules)}"
                self.rules.append(f"{name}: {self._value(resolved(schema, root), root)}")
            return self._known[reference]
        options = _options(schema)
        if len(options) > 1:
            return f"({' | '.join(self._value(option, root) for option in options)})"
        [schema] = options
        if (values := _values(schema)) is not None:
            texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
            return f"({' | '.join(map(_literal, texts))}) {self._tag}"
        match schema.get("type"):
            case "object":
                return f"{self._elements(schema, root)} {self._tag}"
            case "array":
                item = self._element("item", _given(schema, "items", dict, {}), root)
                return f"({item}){_count(schema, 'minItems', 'maxItems')} {self._tag}"
            case "string":
                if "pattern" in schema:
                    raise InputError("tools", "a string can't be held to a pattern: this model writes no JSON in calls")
                length = _count(schema, "minLength", "maxLength")
                return self.up_to(self._tag, f"/(?s:.{length})/")
            case None:
                return self.up_to(self._tag)
        return f"%json {json.dumps({**schema, 'x-guidance': _COMPACT})} {self._tag}"


def _called(tool: Tool) -> dict[str, Any]:
    """The schema of a call in JSON; references stay those of the whole."""
    definitions = {key: value for key, value in tool.parameters.items() if key in ("$defs", "definitions")}
    return {
        "x-guidance": _COMPACT,
        **definitions,
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": {"type": "object", **tool.parameters}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _options(schema: Schema) -> list[Schema]:
    """What a value may be, without null: that argument is left out."""
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            options = [option for option in schema[key] if isinstance(option, Mapping)]
            return [each for option in options if option.get("type") != "null" for each in _options(option)] or [{}]
    if parts := _given(schema, "allOf", list, []):
        if len(parts) != 1 or not isinstance(parts[0], Mapping):
            raise InputError("tools", "allOf with several schemas can't be kept to; write them as one")
        return _options(parts[0])
    if isinstance(schema.get("type"), list):
        return [{**schema, "type": each} for each in schema["type"] if each != "null"] or [{}]
    return [schema]


def _values(schema: Schema) -> list[Any] | None:
    """The values that a schema lists, if it does."""
    return [schema["const"]] if "const" in schema else _given(schema, "enum", list, None)


def _count(schema: Schema, least: str, most: str) -> str:
    """How often something comes: a suffix in the notation of grammars and of regular expressions."""
    low, high = _given(schema, least, int, 0), _given(schema, most, int, None)
    return f"{{{low},{'' if high is None else high}}}" if low or high is not None else "*"


def _given(schema: Schema, key: str, kind: type, default: Any) -> Any:
    """What a schema says under a key.

    Raises:
        InputError: it is of another type than JSON Schema has there.
    """
    value = schema.get(key, default)
    if value is not default and not isinstance(value, kind):
        raise InputError("tools", f"{key!r} in a schema of arguments can't be {json.dumps(value)[:50]}")
    return value


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
