"""Held-out text that lies wherever Python does: prose and source code of the standard library."""

from __future__ import annotations

import ast
import pydoc_data.topics
import sysconfig
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path


def code() -> Iterator[str]:
    """The source files of the standard library's modules and packages, without its tests."""
    for path in _sources():
        yield path.read_text(encoding="utf-8", errors="replace")


def prose() -> Iterator[str]:
    """The language reference that `help()` shows, then what the standard library's docstrings tell in paragraphs."""
    yield from pydoc_data.topics.topics.values()
    for path in _sources():
        tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                if text.count("\n") > 3:
                    yield text + "\n\n"


def tokens(texts: Iterator[str], encode: Callable[[str], list[int]], count: int) -> list[int]:
    """The first `count` tokens of some texts.

    Raises:
        ValueError: they are too short.
    """
    ids: list[int] = []
    for text in texts:
        if len(ids) >= count:
            break
        ids += encode(text)
    if len(ids) < count:
        raise ValueError(f"texts: {count} tokens wanted, {len(ids)} are there")
    return ids[:count]


def _sources() -> list[Path]:
    library = Path(sysconfig.get_path("stdlib"))
    folders = ("asyncio", "concurrent", "email", "http", "json", "logging", "multiprocessing", "unittest", "xml")
    found = chain(library.glob("*.py"), *((library / folder).rglob("*.py") for folder in folders))
    return sorted(found, key=lambda path: path.relative_to(library).as_posix())
