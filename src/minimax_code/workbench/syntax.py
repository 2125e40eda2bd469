"""Syntax trees of source files in the languages that tree-sitter's wheels read.

They come with the extra `code`; a server without it imports this and parses nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from minimax_code.errors import WorkspaceError

if TYPE_CHECKING:
    from tree_sitter import Language, Node, Tree

_GRAMMARS = {
    "python": ("tree_sitter_python", "language"),
    "javascript": ("tree_sitter_javascript", "language"),
    "typescript": ("tree_sitter_typescript", "language_typescript"),
    "tsx": ("tree_sitter_typescript", "language_tsx"),
    "go": ("tree_sitter_go", "language"),
    "rust": ("tree_sitter_rust", "language"),
    "java": ("tree_sitter_java", "language"),
    "cpp": ("tree_sitter_cpp", "language"),
    "bash": ("tree_sitter_bash", "language"),
}
_ENDINGS = {
    ".py": "python", ".pyi": "python", ".js": "javascript", ".mjs": "javascript", ".cjs": "javascript",
    ".jsx": "javascript", ".ts": "typescript", ".mts": "typescript", ".cts": "typescript", ".tsx": "tsx", ".go": "go",
    ".rs": "rust", ".java": "java", ".c": "cpp", ".h": "cpp", ".cc": "cpp", ".cpp": "cpp", ".cxx": "cpp",
    ".hpp": "cpp", ".sh": "bash", ".bash": "bash",
}  # fmt: skip


def language_of(path: str) -> str | None:
    """The language that a file is read in, by its name's ending; None where there is none for it."""
    return _ENDINGS.get(PurePosixPath(path).suffix.lower())


def parse(source: bytes, language: str) -> Tree:
    """The tree of a source. What isn't the language is in it as nodes with errors.

    Raises:
        WorkspaceError: tree-sitter isn't installed.
    """
    if not is_installed():
        raise WorkspaceError("tree-sitter is not installed; pip install 'openm3[code]' brings it")
    from tree_sitter import Parser

    return Parser(_grammar(language)).parse(source)


def is_installed() -> bool:
    """Whether anything can be parsed."""
    return importlib.util.find_spec("tree_sitter") is not None


def walk(node: Node, without: frozenset[str] = frozenset()) -> Iterator[Node]:
    """A node and all within it, in the source's order, but nothing within nodes of some types."""
    waiting = [node]  # deep trees would end a recursion
    while waiting:
        node = waiting.pop()
        if node.type not in without:
            yield node
            waiting += reversed(node.children)


@cache
def _grammar(language: str) -> Language:
    from tree_sitter import Language

    module, function = _GRAMMARS[language]
    return Language(getattr(importlib.import_module(module), function)())


def first_error(source: bytes, language: str) -> int | None:
    """The line, from 1, of the first thing that isn't the language; None where all of it is."""
    root = parse(source, language).root_node
    if not root.has_error:
        return None
    wrong = (node for node in walk(root) if node.is_error or node.is_missing)
    return next((node.start_point.row + 1 for node in wrong), 1)
