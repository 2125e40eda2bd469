"""Changes to files in a model's answer, in the format that suits the model.

Small models write whole files well and search/replace blocks badly; large ones save most of a file's tokens with
blocks. A calibration says which it is.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from minimax_code.errors import InputError
from minimax_code.model import Message
from minimax_code.skills.answer import fenced, files_in
from minimax_code.skills.prompt import prompt_of
from minimax_code.workbench.files import CodeFile, path_problem
from minimax_code.workbench.patch import apply_edit

EditFormat = Literal["whole", "blocks", "definition"]
"""whole: changed files as a whole; blocks: search/replace; definition: changed functions and classes of Python."""

FORMATS: tuple[EditFormat, ...] = ("blocks", "whole", "definition")
"""From the fewest tokens for a strong model to what the smallest can do."""

_BLOCK = re.compile(
    r"^[ \t`*#]*(?P<path>[^\s`*#<][^\n`*]*?)?[ \t`*:]*\n"  # the path, whatever marks are around it
    r"(?:```[^\n]*\n)?<{5,9} ?SEARCH[^\n]*\n(?P<old>.*?)^={5,9}[^\n]*\n(?P<new>.*?)^>{5,9}",
    re.MULTILINE | re.DOTALL,
)


def edit_messages(asked: str, files: Sequence[CodeFile], edit_format: EditFormat) -> tuple[Message, ...]:
    """What a model is told and asked for a change of files that it is shown."""
    system = Message(role="system", content=prompt_of(edit_format))
    return system, Message(role="user", content="\n\n".join([asked, *map(fenced, files)]))


class EditError(Exception):
    """An answer whose changes can't be made; its message is what the model is told."""


def changed_files(answer: str, before: Mapping[str, str], edit_format: EditFormat) -> list[CodeFile]:
    """The files that an answer changes or adds, as they are afterwards.

    Args:
        before: the files that the model was shown, by path.

    Raises:
        EditError: a change fits nowhere, or the answer has none.
    """
    if edit_format == "blocks":
        files = _by_blocks(answer, before)
    else:
        written, whole = files_in(answer, _language(before))
        if not whole:
            raise EditError("the answer ends within a file")
        files = [_named(file, before, len(written)) for file in written]
        if edit_format == "definition":
            files = [_with_definitions(file, before) for file in files]
    files = [file for file in files if before.get(file.path) != file.content]
    if not files:
        raise EditError("the answer changes no file")
    return files


def _language(before: Mapping[str, str]) -> str | None:
    languages = {CodeFile(path, "").language for path in before}
    return languages.pop() if len(languages) == 1 else None


def _named(file: CodeFile, before: Mapping[str, str], num_written: int) -> CodeFile:
    """A file under the path that was meant: the one shown, where one was shown and one came back without its path."""
    if file.path in before:
        return file
    same_name = [path for path in before if path.rpartition("/")[2] == file.path.rpartition("/")[2]]
    if len(same_name) == 1:
        return CodeFile(same_name[0], file.content)
    if len(before) == num_written == 1 and file.path.startswith("main."):  # `files_in` has named it
        return CodeFile(next(iter(before)), file.content)
    return file


def _by_blocks(answer: str, before: Mapping[str, str]) -> list[CodeFile]:
    after = dict(before)
    path = next(iter(before)) if len(before) == 1 else ""
    num_blocks = 0
    for block in _BLOCK.finditer(answer):
        named = (block["path"] or "").strip()
        if named in before or (named and "." in named and path_problem(named) is None and not block["old"].strip()):
            path = named
        if not path:
            raise EditError("a block names no file: write the file's path on the line above it")
        num_blocks += 1
        try:
            known = path in after and block["old"].strip()
            after[path] = apply_edit(after[path], block["old"], block["new"]) if known else block["new"]
        except InputError as error:
            raise EditError(f"{path}: the search part {error.message}") from error
    if not num_blocks:
        raise EditError("the answer has no SEARCH/REPLACE block")
    return [CodeFile(path, content) for path, content in after.items()]


def _with_definitions(file: CodeFile, before: Mapping[str, str]) -> CodeFile:
    """A Python file with the functions and classes of an answer in the place of those with the same names."""
    old = before.get(file.path)
    if old is None or file.language != "python":
        return file
    try:
        place = definitions(old)
        new = definitions(file.content)
    except SyntaxError as error:
        raise EditError(f"{file.path}:{error.lineno}: {error.msg}") from error
    if not new:
        raise EditError(f"{file.path}: the answer has no function or class")
    lines = old.splitlines(keepends=True)
    text = file.content.splitlines(keepends=True)
    added: list[str] = []
    for name, (start, end) in sorted(new.items(), key=lambda item: -place.get(item[0], (0, 0))[0]):
        body = [*text[start:end]]
        if name in place:
            lines[slice(*place[name])] = body
        else:
            added = ["\n\n", *body, *added]
    imports = [line for line in _imports(file.content) if line not in old]
    head = _import_line(old)
    lines[head:head] = [f"{line}\n" for line in imports]
    return CodeFile(file.path, "".join(lines).rstrip("\n") + "\n" + "".join(added))


def definitions(source: str) -> dict[str, tuple[int, int]]:
    """The functions and classes at the top of a Python source, and their lines with decorators, as a slice.

    Raises:
        SyntaxError: it doesn't parse.
    """
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {
        node.name: (min([node.lineno, *(one.lineno for one in node.decorator_list)]) - 1, node.end_lineno or 0)
        for node in ast.parse(source).body
        if isinstance(node, kinds)
    }


def _imports(source: str) -> Sequence[str]:
    return [ast.unparse(node) for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]


def _import_line(source: str) -> int:
    """Behind which line imports go: the last import, else the docstring, else none."""
    body = ast.parse(source).body
    imports = [node.end_lineno or 0 for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    if imports:
        return imports[-1]
    first = body[0] if body else None
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return (first.end_lineno or 0) if first is not None and is_docstring else 0
