"""How a model is best used, found out once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from helpers.calibration import Clever
from minimax_code.errors import ModelError
from minimax_code.model import Abilities
from minimax_code.skills import calibration_tasks as tasks
from minimax_code.skills.calibration import Calibration, calibrate
from minimax_code.testing import ScriptedModel


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
