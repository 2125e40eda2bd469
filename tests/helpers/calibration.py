"""A model that knows the answers to the questions of a calibration."""

from __future__ import annotations

import json
import re

from minimax_code.model import Reply, Request, ToolCall
from minimax_code.skills import calibration_tasks as tasks
from minimax_code.skills.answer import fenced
from minimax_code.workbench.files import CodeFile


class Clever:
    """Answers the questions of a calibration, those of some kinds."""

    def __init__(self, *kinds: str) -> None:
        self.kinds = kinds

    def __call__(self, request: Request) -> str | ToolCall | Reply:
        said = request.messages[-1].content
        system = request.messages[0].content
        call = next(
            (task for task in tasks.CALLS if any(task.asked in turn.content for turn in request.messages)), None
        )
        if call:
            return self.call(request, call)
        edit = next((task for task in tasks.EDITS if task.asked in said), None)
        if edit:
            form = (
                "blocks" if "SEARCH" in system else "definition" if "functions and classes only" in system else "whole"
            )
            return self.edit(edit, form) if form in self.kinds else "I don't know."
        repair = next((task for task in tasks.REPAIRS if task.failure in said), None)
        if repair:
            return fenced(CodeFile("main.py", repair.after[-1])) if "repairs" in self.kinds else repair.before
        judgement = next(task for task in tasks.JUDGEMENTS if task.asked in said)
        is_first = re.search(r"^A: (.*)$", said, re.MULTILINE)[1] == judgement.right  # type: ignore[index]
        return "B" if "judges" in self.kinds and not is_first else "A"

    def call(self, request: Request, task: tasks.Call) -> str | ToolCall:
        written = json.dumps({"name": task.name, "arguments": task.arguments})
        if request.tools:
            return (
                ToolCall(id="1", name=task.name, arguments=json.dumps(task.arguments))
                if "native" in self.kinds
                else "?"
            )
        if request.json_schema is not None:
            return written if "constrained" in self.kinds else "{}"
        return f"```tool\n{written}\n```" if "text" in self.kinds else "I would read it."

    def edit(self, task: tasks.Edit, form: str) -> str:
        if form == "blocks":
            return f"shop.py\n<<<<<<< SEARCH\n{task.before}=======\n{task.after}>>>>>>> REPLACE\n"
        return fenced(CodeFile(task.path, task.after))
