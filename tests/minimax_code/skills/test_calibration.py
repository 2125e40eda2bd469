"""How a model is best used, found out once."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from minimax_code.errors import ModelError
from minimax_code.model import Abilities, Reply, Request, ToolCall
from minimax_code.skills import calibration_tasks as tasks
from minimax_code.skills.answer import fenced
from minimax_code.skills.calibration import Calibration, calibrate
from minimax_code.testing import ScriptedModel
from minimax_code.workbench.files import CodeFile

SAYS = {"blocks": "SEARCH", "definition": "functions and classes only", "whole": "file as a whole"}


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


def examined(*kinds: str, cache: Path | None = None, **abilities: Any) -> Calibration:
    able = Abilities(context_tokens=8192, **abilities)
    return asyncio.run(calibrate(ScriptedModel(iter(lambda: Clever(*kinds), None), abilities=able), cache))


def test_a_strong_model_drives_itself() -> None:
    known = examined("blocks", "whole", "definition", "native", "text", "repairs", "judges", calls_tools=True)
    assert (known.edit_format, known.call_style, known.strategy) == ("blocks", "native", "agent")
    assert known.repairs
    assert known.judges
    assert set(known.scores.values()) == {1.0}
    assert known.num_questions == len(tasks.EDITS) * 3 + 2 * 2 + len(tasks.REPAIRS) + len(tasks.JUDGEMENTS) <= 22


@pytest.mark.parametrize(
    ("kinds", "edit_format", "call_style", "strategy"),
    [
        ((), "whole", "text", "pipeline"),
        (("whole", "text"), "whole", "text", "pipeline"),
        (("definition", "constrained"), "definition", "constrained", "pipeline"),
        (("whole", "constrained", "repairs"), "whole", "constrained", "agent"),
    ],
)
def test_a_small_model_is_led(kinds: tuple[str, ...], edit_format: str, call_style: str, strategy: str) -> None:
    known = examined(*kinds, takes_json_schema=True)
    assert (known.edit_format, known.call_style, known.strategy) == (edit_format, call_style, strategy)
    assert not known.judges, "whoever always says A doesn't judge"


def test_it_is_asked_once_and_kept_by_name(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    known = examined("whole", cache=cache)
    silent = ScriptedModel([])
    assert asyncio.run(calibrate(silent, cache)) == known
    with pytest.raises(ModelError):
        asyncio.run(calibrate(ScriptedModel([ModelError("gone")] * 40, name="another"), cache))


@pytest.mark.parametrize("content", ["", "{}", '{"model": "scripted", "version": 0}', "[1"])
def test_what_is_not_a_calibration_is_written_anew(tmp_path: Path, content: str) -> None:
    known = examined("whole", cache=tmp_path)
    [path] = tmp_path.iterdir()
    path.write_text(content)
    assert examined("whole", cache=tmp_path) == known
    assert Calibration.model_validate_json(path.read_bytes()) == known
