"""What a source file defines: functions, methods, classes and other types, with their lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from minimax_code.workbench.syntax import language_of, parse

if TYPE_CHECKING:
    from tree_sitter import Node

Kind = Literal["function", "class", "type", "module"]

_KINDS: dict[str, Kind] = {
    "function_definition": "function", "function_declaration": "function", "method_definition": "function",
    "method_declaration": "function", "constructor_declaration": "function", "function_item": "function",
    "generator_function_declaration": "function", "function_signature_item": "function",
    "class_definition": "class", "class_declaration": "class", "class_specifier": "class",
    "struct_specifier": "class", "struct_item": "class", "abstract_class_declaration": "class",
    "record_declaration": "class",
    "interface_declaration": "type", "type_alias_declaration": "type", "enum_declaration": "type",
    "type_spec": "type", "enum_item": "type", "trait_item": "type", "type_item": "type", "enum_specifier": "type",
    "mod_item": "module", "namespace_definition": "module", "internal_module": "module",
}  # fmt: skip
_NAMED = ("name", "declarator", "type")  # fields that lead to a definition's name
_ARROWS = ("arrow_function", "function_expression", "function")


@dataclass(frozen=True, kw_only=True)
class Symbol:
    """A definition.

    Attributes:
        name: with those that it stands in, as "Stack.push".
        line, end_line: from 1; decorators count.
        signature: its first line.
    """

    name: str
    kind: Kind
    line: int
    end_line: int
    signature: str


def symbols_in(path: str, source: bytes) -> tuple[Symbol, ...]:
    """The definitions of a file in order of their lines; none where its language isn't read."""
    language = language_of(path)
    if language is None:
        return ()
    found: list[Symbol] = []
    waiting: list[tuple[Node, str]] = [(parse(source, language).root_node, "")]
    while waiting:
        node, inside = waiting.pop()
        if node.type == "impl_item":
            inside = ".".join(filter(None, [inside, _text(node.child_by_field_name("type") or node)]))
        named = _definition(node)
        if named:
            kind, name = named
            inside = ".".join(filter(None, [inside, name]))
            whole = node.parent if node.parent is not None and node.parent.type == "decorated_definition" else node
            found.append(
                Symbol(
                    name=inside,
                    kind=kind,
                    line=whole.start_point.row + 1,
                    end_line=whole.end_point.row + 1,
                    signature=_text(node).splitlines()[0].strip()[:200],
                )
            )
        waiting += [(child, inside) for child in reversed(node.children)]
    return tuple(sorted(found, key=lambda symbol: (symbol.line, -symbol.end_line)))


def symbol_at(symbols: Sequence[Symbol], line: int) -> Symbol | None:
    """The innermost definition around a line."""
    around = [symbol for symbol in symbols if symbol.line <= line <= symbol.end_line]
    return min(around, key=lambda symbol: symbol.end_line - symbol.line, default=None)


def _definition(node: Node) -> tuple[Kind, str] | None:
    if node.type == "variable_declarator":  # const f = () => ...
        value = node.child_by_field_name("value")
        name = node.child_by_field_name("name")
        return ("function", _text(name)) if value and name and value.type in _ARROWS else None
    kind = _KINDS.get(node.type)
    if kind is None or (kind == "class" and node.type.endswith("_specifier") and not node.child_by_field_name("body")):
        return None
    name = node
    while (inner := next(filter(None, map(name.child_by_field_name, _NAMED)), None)) is not None:
        if name.type in ("qualified_identifier", "generic_type", "scoped_identifier"):
            break
        name = inner
    receiver = node.child_by_field_name("receiver")  # of a method in Go
    owner = re.sub(r"\W", "", _text(receiver).split()[-1]) + "." if receiver is not None else ""
    return None if name is node else (kind, owner + _text(name).split("(")[0].strip())


def _text(node: Node) -> str:
    return (node.text or b"").decode(errors="replace")
