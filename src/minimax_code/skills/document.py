"""Writes docstrings: the model the words, a definition at a time; our code puts them in and changes nothing else."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from minimax_code.errors import InputError
from minimax_code.model import Message, Model, Reply, Usage
from minimax_code.skills.answer import fenced
from minimax_code.skills.checks import lay
from minimax_code.skills.effort import Effort
from minimax_code.skills.prompt import prompt_of
from minimax_code.skills.solution import Solution
from minimax_code.workbench.behaviour import behave
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.examples import Example, examples_in
from minimax_code.workbench.files import CodeFile
from minimax_code.workbench.receipt import Receipt

_AT_ONCE = 4
_QUOTED = re.compile(r"[rRuU]?(\"\"\"|''')(.*?)\1", re.DOTALL)
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


async def document(
    model: Model,
    bench: Workbench | None,
    files: Sequence[CodeFile],
    *,
    style: str = "google",
    wishes: str = "",
    effort: Effort | None = None,
) -> Solution:
    """Gives each public definition of Python files that has none a docstring.

    That nothing but docstrings has changed is compared. Examples in them are run, and those that fail are left out, as
    are all where nothing can be run. The words themselves nobody checks, so the verdict is "plausible" at the best.

    Args:
        bench: its workspace has the files afterwards; None: nothing is run.
        files: those of the workspace; `files_of` reads them.
        wishes: what else the model is told, in words: that it give examples, say.

    Raises:
        InputError: a file is no Python, or doesn't parse.
        ModelError, SandboxError: there is no answer, or nothing can be run.
    """
    effort = effort or Effort()
    turns = asyncio.Semaphore(_AT_ONCE)
    asked = [(file, place) for i, file in enumerate(files) for place in _undocumented(file, f"files[{i}]")]

    async def ask(file: CodeFile, place: _Place) -> Reply:
        source = fenced(CodeFile(file.path, place.source))
        content = prompt_of("document", name=place.name, style=style, wishes=wishes, code=source)
        async with turns:
            return await model.reply(effort.request([Message(role="user", content=content)]))

    replies = await asyncio.gather(*(ask(*one) for one in asked))
    written = {one: docstring_in(reply.content) for one, reply in zip(asked, replies, strict=True)}
    left_out, receipts = 0, list[Receipt]()
    for (file, place), text in written.items():
        kept, receipt, lost = await _with_true_examples(bench, file, text)
        written[file, place], left_out = kept, left_out + lost
        receipts += [receipt] if receipt else []
    documented = [
        _with_docstrings(file, [(place, text) for (of, place), text in written.items() if of is file and text])
        for file in files
    ]
    for old, new in zip(files, documented, strict=True):
        assert _without_docstrings(old.content) == _without_docstrings(new.content), "only docstrings are put in"
    changed = tuple(new for old, new in zip(files, documented, strict=True) if new != old)
    if bench is not None:
        lay(bench, changed)
    checked = f"{len(changed)} files are the same as before but for docstrings; nothing of them was run"
    receipts.append(Receipt(command=("python:", "ast.dump"), exit_code=0, checked=checked))
    num_written = sum(bool(text) for text in written.values())
    notes = [f"{num_written} of {len(asked)} definitions without a docstring got one"]
    notes += [f"{left_out} examples were left out: they fail, or can't be run"] if left_out else []
    return Solution(
        files=changed,
        verdict="plausible" if num_written else "failed" if asked else "unverified",
        receipts=tuple(receipts),
        usage=sum((reply.usage for reply in replies), Usage()),
        text="\n\n".join(reply.content for reply in replies),
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Place:
    """Where a docstring is missing: before which line (from 0), how far it is indented, of what."""

    name: str
    line: int
    indent: str
    source: str


def _undocumented(file: CodeFile, field: str) -> Iterator[_Place]:
    if file.language != "python":
        raise InputError(f"{field}.path", "must be a Python file; docstrings are Python's")
    try:
        tree = ast.parse(file.content)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{field}.content", f"doesn't parse: {error}") from error
    lines = file.content.splitlines(keepends=True)
    for node in _public(tree):
        first = node.body[0]
        if ast.get_docstring(node) is None and first.lineno > node.lineno:
            source = "".join(lines[node.lineno - 1 : node.end_lineno])
            start = min([first.lineno, *(one.lineno for one in getattr(first, "decorator_list", ()))])
            yield _Place(node.name, start - 1, " " * first.col_offset, source)


def _public(tree: ast.Module | ast.ClassDef) -> Iterator[_Definition]:
    for node in tree.body:
        if isinstance(node, _DEFINITIONS) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from _public(node)


def docstring_in(answer: str) -> str:
    """The text of the docstring in an answer, without quotes and indentation; "" where there is none."""
    quoted = _QUOTED.search(answer)
    if quoted:
        text = quoted[2]
    else:
        text = re.sub(r"^\s*```\w*[^\n]*\n|\n```\s*$", "", answer.strip())
        if re.search(r"^\s*(?:async )?(?:def|class) \w+|```", text, re.MULTILINE):
            return ""  # code, or words around it
    lines = text.strip().expandtabs(4).splitlines()
    rest = [line for line in lines[1:] if line.strip()]
    indent = min((len(line) - len(line.lstrip()) for line in rest), default=0)
    text = "\n".join([*lines[:1], *(line[indent:].rstrip() for line in lines[1:])])
    return text.replace("\\", "\\\\").replace('"""', "'''").strip()


def _with_docstrings(file: CodeFile, texts: Sequence[tuple[_Place, str]]) -> CodeFile:
    lines = file.content.splitlines(keepends=True)
    for place, text in sorted(texts, key=lambda one: -one[0].line):
        closing = f"\n{place.indent}" if "\n" in text else " " if text.endswith('"') else ""
        inside = "\n".join(f"{place.indent}{line}" if line and i else line for i, line in enumerate(text.split("\n")))
        lines.insert(place.line, f'{place.indent}"""{inside}{closing}"""\n')
    return CodeFile(file.path, "".join(lines))


def _without_docstrings(source: str) -> str:
    """What a source means, docstrings apart."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _DEFINITIONS) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


async def _with_true_examples(bench: Workbench | None, file: CodeFile, text: str) -> tuple[str, Receipt | None, int]:
    """A docstring without the examples that aren't so, the receipt of their run, and how many went."""
    blocks = [
        part for part in re.split(r"(?=^[ \t]*>>> )", text, flags=re.MULTILINE) if part.lstrip().startswith(">>> ")
    ]
    if not blocks:
        return text, None, 0
    examples = [next(iter(examples_in(block)), None) for block in blocks]
    known: list[Example] = [one for one in examples if one is not None]
    true: set[Example] = set()
    receipt = None
    if bench is not None and known:
        ran = await behave(bench.sandbox, bench.workspace.path, file.path, known, python=bench.python)
        receipt = ran.receipt
        true = {one for one, case in zip(known, receipt.cases, strict=True) if case.outcome == "passed"}
    lost = 0
    for block, example in zip(blocks, examples, strict=True):
        if example not in true:
            lost += 1
            whole = re.match(r"[ \t]*>>> .*\n?(?:[ \t]*\.\.\. .*\n?)*(?:[ \t]*\S.*\n?)*", block)
            text = text.replace(whole[0] if whole else block, "", 1)
    text = re.sub(r"\n*^[ \t]*Examples?:?[ \t]*\n*\Z", "", text.rstrip(), flags=re.MULTILINE)
    return text.strip(), receipt, lost
