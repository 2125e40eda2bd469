"""Small wrong changes of source lines: tests that don't notice them don't test those lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from minimax_code.workbench.syntax import language_of, parse, walk

if TYPE_CHECKING:
    from tree_sitter import Node

_OPERATORS = {
    b"<": b"<=", b"<=": b"<", b">": b">=", b">=": b">", b"==": b"!=", b"!=": b"==", b"===": b"!==", b"!==": b"===",
    b"+": b"-", b"-": b"+", b"*": b"/", b"/": b"*", b"//": b"*", b"%": b"*", b"+=": b"-=", b"-=": b"+=",
    b"and": b"or", b"or": b"and", b"&&": b"||", b"||": b"&&", b"&": b"|", b"|": b"&", b"<<": b">>", b">>": b"<<",
    b"in": b"not in", b"not in": b"in", b"is": b"is not", b"is not": b"is", b"break": b"continue",
    b"continue": b"break",
}  # fmt: skip
_OPERATIONS = frozenset({
    "comparison_operator", "binary_operator", "boolean_operator", "augmented_assignment", "binary_expression",
    "augmented_assignment_expression", "compound_assignment_expr", "assignment_statement", "assignment_expression",
    "break_statement", "continue_statement", "break_expression", "continue_expression",
})  # fmt: skip
_CONSTANTS = {b"True": b"False", b"False": b"True", b"true": b"false", b"false": b"true"}
_NUMBERS = frozenset(
    {"integer", "number", "int_literal", "integer_literal", "decimal_integer_literal", "number_literal"}
)
_NOTHING = {"python": b"None", "javascript": b"null", "typescript": b"null", "tsx": b"null"}
_CONDITIONAL = frozenset({"if_statement", "while_statement", "elif_clause", "conditional_expression", "if_expression"})
# What says something of the program to people or checkers, and does nothing.
_WITHOUT = frozenset({
    "type", "type_annotation", "type_parameter", "type_parameters", "type_arguments", "import_statement",
    "import_from_statement", "import_declaration", "use_declaration", "comment", "line_comment", "block_comment",
    "assert_statement", "preproc_include", "string", "type_alias_declaration", "interface_declaration",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A file with one small change.

    Attributes:
        line: where the change is, from 1.
        change: what was changed into what.
    """

    path: str
    line: int
    change: str
    source: bytes


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """What tests made of mutants.

    Attributes:
        survived: mutants with which all tests passed, those on lines that no test runs among them.
        skipped: how many more mutants there are that weren't tried.
        problem: why none was tried, or "".
    """

    killed: tuple[Mutant, ...] = ()
    survived: tuple[Mutant, ...] = ()
    skipped: int = 0
    problem: str = ""

    @property
    def score(self) -> float | None:
        """The part of the tried mutants that tests noticed; None where there were none."""
        tried = len(self.killed) + len(self.survived)
        return len(self.killed) / tried if tried else None


def mutants_of(path: str, source: bytes, lines: Set[int] | None = None) -> tuple[Mutant, ...]:
    """The mutants of a file, in order of their lines.

    Args:
        lines: those whose mutants are wanted; all where None.
    """
    language = language_of(path)
    if language is None:
        return ()
    tree = parse(source, language)
    if tree.root_node.has_error:
        return ()
    found: dict[tuple[int, int, bytes], Mutant] = {}
    for node in walk(tree.root_node, _WITHOUT):
        for start, end, text in _changes(node, language):
            line = source.count(b"\n", 0, start) + 1
            if lines is not None and line not in lines:
                continue
            old = source[start:end]
            changed = source[:start] + text + source[end:]
            change = f"{_shown(old)} became {_shown(text)}"
            if not parse(changed, language).root_node.has_error:
                found[start, end, text] = Mutant(path=path, line=line, change=change, source=changed)
    return tuple(found[key] for key in sorted(found))


def spread(mutants: Mapping[str, tuple[Mutant, ...]], limit: int) -> tuple[list[Mutant], int]:
    """At most so many mutants, one of each line before a second of any; and how many are left out."""
    seen: dict[tuple[str, int], int] = {}
    ranked: list[tuple[int, Mutant]] = []
    for mutant in (one for of_file in mutants.values() for one in of_file):
        place = (mutant.path, mutant.line)
        ranked.append((seen.get(place, 0), mutant))
        seen[place] = seen.get(place, 0) + 1
    ranked.sort(key=lambda one: one[0])
    return [mutant for _, mutant in ranked[:limit]], max(0, len(ranked) - limit)


def _changes(node: Node, language: str) -> Iterator[tuple[int, int, bytes]]:
    """Where text begins and ends, and what is put in its place."""
    text = node.text or b""
    if node.type in _OPERATIONS:
        for child in node.children:
            if not child.is_named and (child.text or b"") in _OPERATORS:
                yield child.start_byte, child.end_byte, _OPERATORS[child.text or b""]
    if node.type in ("not_operator", "unary_expression"):
        mark = node.children[0]
        if mark.text in (b"not", b"!"):
            yield mark.start_byte, node.children[1].start_byte, b""
    if text in _CONSTANTS and not node.child_count:
        yield node.start_byte, node.end_byte, _CONSTANTS[text]
    if node.type in _NUMBERS and text.isdigit():
        yield node.start_byte, node.end_byte, str(int(text[:100]) + 1).encode()
    if node.type == "return_statement" and language in _NOTHING and node.named_child_count == 1:
        value = node.named_children[0]
        if value.text != _NOTHING[language]:
            yield value.start_byte, value.end_byte, _NOTHING[language]
    if node.type in _CONDITIONAL and language != "bash":
        condition = node.child_by_field_name("condition")
        if condition is not None and not condition.has_error:
            inner = condition.text or b""
            yield condition.start_byte, condition.end_byte, _negated(inner, language)


def _negated(condition: bytes, language: str) -> bytes:
    if language == "python":
        return b"not (" + condition + b")"
    return b"(!" + condition + b")" if condition.startswith(b"(") else b"!(" + condition + b")"


def _shown(text: bytes) -> str:
    shown = " ".join(text.decode(errors="replace").split())
    return f"`{shown[:60]}`" if shown else "nothing"
