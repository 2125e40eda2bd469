"""Explains code and answers questions about it; what an answer refers to is looked up, and what isn't there is said."""

from __future__ import annotations

import re
from collections.abc import Sequence

from minimax_code.model import Message, Model
from minimax_code.skills.answer import fenced
from minimax_code.skills.effort import Effort
from minimax_code.skills.prompt import prompt_of
from minimax_code.skills.solution import Solution
from minimax_code.skills.sources import localise, that_fit
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.files import CodeFile
from minimax_code.workbench.findings import Findings
from minimax_code.workbench.receipt import Receipt

_PLACE = re.compile(r"(?P<path>[\w./-]*\w\.\w+)(?::|, lines? )(?P<line>\d+)")
_CODE = re.compile(r"`([A-Za-z_][\w.]*)(?:\(\))?`")
_MAX_FINDINGS = 30


async def explain(
    model: Model, bench: Workbench, paths: Sequence[str], *, question: str = "", effort: Effort | None = None
) -> Solution:
    """What files do, for somebody who is new to them, or the answer to a question about them; in `text`.

    Lines and names that the text refers to are looked up in the files that the model was shown, and notes tell which
    are not there. Nothing else of it is verified.

    Raises:
        InputError: a path is not there, or none fits into the model's window.
        ModelError: there is no answer.
    """
    asked = prompt_of("explain", question=question or "Explain what this code does and how, for a newcomer.")
    return await _answered(model, bench, paths, asked, question, effort or Effort())


async def analyse(
    model: Model,
    bench: Workbench,
    task: str,
    *,
    paths: Sequence[str] = (),
    standards: Sequence[str] = ("security", "performance", "types"),
    effort: Effort | None = None,
) -> Solution:
    """The answer to a task about files, which starts from what analysers find in them; in `text`.

    Raises:
        InputError: a path is not there, or none fits into the model's window.
        ModelError, SandboxError: there is no answer, or nothing can be run.
    """
    found = list(paths) or await localise(bench, task)
    shown, _ = await that_fit(model, bench, found)
    facts = await bench.analyse([file.path for file in shown], standards)
    asked = prompt_of("analyse", task=task, facts=facts_in_words(facts) or "none")
    return await _answered(model, bench, found, asked, task, effort or Effort(), facts.receipts)


def facts_in_words(facts: Findings) -> str:
    """What analysers have found, a line each; of many the first, and how many more there are."""
    lines = [f"{issue.file}:{issue.line} {issue.severity}: {issue.message} ({issue.rule})" for issue in facts.issues]
    more = [f"and {len(lines) - _MAX_FINDINGS} more"] if len(lines) > _MAX_FINDINGS else []
    return "\n".join([*lines[:_MAX_FINDINGS], *more])


async def _answered(
    model: Model,
    bench: Workbench,
    paths: Sequence[str],
    asked: str,
    problem: str,
    effort: Effort,
    receipts: Sequence[Receipt] = (),
) -> Solution:
    shown, left = await that_fit(model, bench, list(paths) or await localise(bench, problem))
    content = "\n\n".join([asked, *map(fenced, shown)])
    reply = await model.reply(effort.request([Message(role="user", content=content)]))
    wrong = wrong_references(reply.content, shown)
    tree = await bench.workspace.snapshot()
    checked = f"lines and names that the answer refers to, in {len(shown)} files; {len(wrong)} are not there"
    looked_up = Receipt(command=("look up references",), tree=tree, exit_code=int(bool(wrong)), checked=checked)
    notes = [f"not shown to the model, for want of room: {', '.join(left)}"] if left else []
    return Solution(
        text=reply.content,
        receipts=(*receipts, looked_up),
        usage=reply.usage,
        notes=(*notes, *(f"the answer refers to {name}, which is not there" for name in wrong)),
    )


def wrong_references(text: str, files: Sequence[CodeFile]) -> list[str]:
    """Lines beyond a file's end, and names in code marks that are in none of the files; each once."""
    lengths = {file.path: file.content.count("\n") + 1 for file in files}
    wrong: dict[str, None] = {}
    for match in _PLACE.finditer(text):
        named = [length for path, length in lengths.items() if path.endswith(match["path"])]
        if named and int(match["line"]) > max(named):
            wrong[f"{match['path']}:{match['line']}"] = None
    words = set(re.findall(r"\w+", " ".join([*(file.content for file in files), *lengths])))
    for name in _CODE.findall(text):
        if not set(name.split(".")) <= words:
            wrong[f"`{name}`"] = None
    return list(wrong)
