"""What a model is good at, found out by some twenty small questions whose answers are known, and kept in a file.

Which format its edits have, how it calls tools, whether it can mend its code by a failure, whether its judgement says
anything: all of it decides how it is best used, and none of it follows from its name or size. Nothing that it writes
is run; answers are compared with the known ones by code.
"""

from __future__ import annotations

import ast
import asyncio
import hashlib
import json
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path

from platformdirs import user_cache_path
from pydantic import Field, ValidationError

from minimax_code.model import Abilities, Message, Model, Request, Strategy, Usage
from minimax_code.record import Record
from minimax_code.skills import calibration_tasks as tasks
from minimax_code.skills.calls import CallStyle, arguments_of, reply_with_tools
from minimax_code.skills.edits import FORMATS, EditError, EditFormat, changed_files, edit_messages
from minimax_code.skills.judge import prefer
from minimax_code.skills.prompt import prompt_of
from minimax_code.workbench.files import CodeFile

VERSION = 1
"""Of the questions; what an older version found is found anew."""

_BAR = 0.75  # of a kind of question, to build on it
_TOKENS = 400


class Calibration(Record):
    """How a model is best used.

    Attributes:
        model: its name.
        edit_format: in which it changes files.
        call_style: how it calls tools.
        strategy: how it is used for tasks.
        repairs: whether it is shown what failed; else it is asked anew.
        judges: whether it is asked which of two outcomes is right.
        scores: the share of right answers by kind of question.
        num_questions: how many they were; 0: the model was not asked.
        usage: tokens of all of them.
    """

    model: str
    version: int = VERSION
    edit_format: EditFormat = "whole"
    call_style: CallStyle = "text"
    strategy: Strategy = "pipeline"
    repairs: bool = False
    judges: bool = False
    scores: dict[str, float] = Field(default_factory=dict)
    num_questions: int = 0
    usage: Usage = Usage()


def default_cache() -> Path:
    """The folder of this user's calibrations, in the platform's cache folder."""
    return user_cache_path("minimax-code")


async def calibrate(model: Model, cache: Path | None = None) -> Calibration:
    """The calibration of a model: the one in the cache, else a new one, which is put there.

    Args:
        cache: a folder, a file for each name of a model; None keeps nothing.

    Raises:
        ModelError: the model can't be reached.
    """
    await model.abilities()  # its server may only now tell its name
    if cache and (known := known_calibration(model.name, cache)):
        return known
    found = await _examine(model)
    if cache:
        keep_calibration(found, cache)
    return found


def known_calibration(name: str, cache: Path) -> Calibration | None:
    """What is known of a model already."""
    try:
        known = Calibration.model_validate_json(_path(name, cache).read_bytes())
    except (OSError, ValidationError):  # not there, or not ours: it is written anew
        return None
    return known if (known.model, known.version) == (name, VERSION) else None


def _path(name: str, cache: Path) -> Path:
    return cache / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.json"


def keep_calibration(calibration: Calibration, cache: Path) -> None:
    """Writes it down, whole or not at all, whoever else writes the same."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=cache, delete=False, encoding="utf-8") as file:
        json.dump(calibration.model_dump(mode="json"), file, indent=1)
    os.replace(file.name, _path(calibration.model, cache))


_Mark = tuple[str, bool, Usage]  # of a question: its kind, whether the answer was right, what it cost
_Marks = list[_Mark]
_Question = Callable[[], Awaitable[_Mark]]


async def _examine(model: Model) -> Calibration:
    abilities = await model.abilities()
    styles = _styles(abilities)
    questions: list[_Question] = [
        *(partial(_edit, model, task, form) for form in FORMATS for task in tasks.EDITS),
        *(partial(_call, model, task, style) for style in styles for task in tasks.CALLS),
        *(partial(_repair, model, task) for task in tasks.REPAIRS),
        *(partial(_judge, model, task) for task in tasks.JUDGEMENTS),
    ]
    marks = await _few_at_once(questions)
    scores = {kind: _share(marks, kind) for kind in dict.fromkeys(kind for kind, _, _ in marks)}
    edit_format = _best_format(scores)
    call_style = max(styles, key=lambda style: scores[f"calls:{style}"])  # of equals the first
    can_call, can_edit = scores[f"calls:{call_style}"] >= _BAR, scores[f"edits:{edit_format}"] >= _BAR
    repairs = scores["repairs"] >= _BAR
    return Calibration(
        model=model.name,
        edit_format=edit_format,
        call_style=call_style,
        strategy="agent" if can_call and can_edit and repairs else "pipeline",
        repairs=repairs,
        judges=scores["judgements"] >= _BAR,
        scores=scores,
        num_questions=len(marks),
        usage=sum((usage for _, _, usage in marks), Usage()),
    )


def _styles(abilities: Abilities) -> tuple[CallStyle, ...]:
    """The ways of calling that the model's server has, from the plainest for it."""
    native: tuple[CallStyle, ...] = ("native",) if abilities.calls_tools else ()
    constrained: tuple[CallStyle, ...] = ("constrained",) if abilities.takes_json_schema else ()
    return (*native, "text", *constrained)


def _best_format(scores: dict[str, float]) -> EditFormat:
    """Blocks where they never fail, as they cost the least; else what goes best, whole files before definitions."""
    if scores["edits:blocks"] == 1:
        return "blocks"
    return max(("whole", "definition", "blocks"), key=lambda form: scores[f"edits:{form}"])


def _share(marks: _Marks, kind: str) -> float:
    right = [is_right for one, is_right, _ in marks if one == kind]
    return round(sum(right) / len(right), 3)


async def _few_at_once(questions: Iterable[_Question]) -> _Marks:
    turns = asyncio.Semaphore(4)

    async def ask(question: _Question) -> _Mark:
        async with turns:
            return await question()

    try:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask(question)) for question in questions]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in asked]


async def _edit(model: Model, task: tasks.Edit, form: EditFormat) -> _Mark:
    before = {task.path: task.before}
    files = (CodeFile(task.path, task.before),)
    messages = edit_messages(task.asked, files, form)
    reply = await model.reply(Request(messages=messages, max_tokens=_TOKENS, temperature=0.0))
    try:
        changed = {file.path: file.content for file in changed_files(reply.content, before, form)}
    except EditError:
        changed = {}
    is_right = set(changed) == {task.path} and _tree(changed[task.path]) == _tree(task.after)
    return f"edits:{form}", is_right, reply.usage


async def _call(model: Model, task: tasks.Call, style: CallStyle) -> _Mark:
    request = Request(
        messages=(Message(role="user", content=task.asked),), tools=tasks.TOOLS, max_tokens=_TOKENS, temperature=0.0
    )
    reply = await reply_with_tools(model, request, style)
    said = [(call.name, arguments_of(call)) for call in reply.calls]
    return f"calls:{style}", said == [(task.name, task.arguments)], reply.usage


async def _repair(model: Model, task: tasks.Repair) -> _Mark:
    turns = (
        Message(role="user", content=task.asked),
        Message(role="assistant", content=f"```python main.py\n{task.before}```"),
        Message(role="user", content=prompt_of("feedback", failure=task.failure)),
    )
    reply = await model.reply(Request(messages=turns, max_tokens=_TOKENS, temperature=0.0))
    try:
        [file] = changed_files(reply.content, {"main.py": task.before}, "whole")
    except (EditError, ValueError):
        return "repairs", False, reply.usage
    return "repairs", any(_tree(file.content) == _tree(after) for after in task.after), reply.usage


async def _judge(model: Model, task: tasks.Judgement) -> _Mark:
    preferred, usage = await prefer(model, task.asked, task.call, task.right, task.wrong)
    return "judgements", preferred == "a", usage


def _tree(source: str) -> str | None:
    """What a source means, whatever it looks like; None where it doesn't parse."""
    try:
        return ast.dump(ast.parse(source))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
