"""The steps of a task, as a model sees them before it begins."""

from __future__ import annotations

import re
from pathlib import Path

from minimax_code.model import Message, Model, Request
from minimax_code.skills.prompt import prompt_of
from minimax_code.work.survey import survey
from minimax_code.work.task import Task

_STEP = re.compile(r"^\s*(?:\d+[.)]|[-*])\s+(.+)$", re.MULTILINE)
_MOST, _TOKENS = 7, 512


async def make_plan(task: Task, *, model: Model, folder: Path) -> tuple[str, ...]:
    """Seven steps at most; the task itself where the model names none.

    Raises:
        ModelError: the model can't be asked.
        BudgetError: there is nothing left to ask it with.
    """
    room = (await model.abilities()).context_tokens // 3
    messages = (
        Message(role="system", content=prompt_of("plan", "minimax_code.work")),
        Message(role="user", content=f"{task.text}\n\n{survey(folder, room)}"),
    )
    reply = await model.reply(Request(messages=messages, max_tokens=min(_TOKENS, room)))
    steps = [" ".join(step.split()) for step in _STEP.findall(reply.content)]
    return tuple(steps[:_MOST]) or (task.description.strip().splitlines()[0],)
