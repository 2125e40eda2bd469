"""A model's findings: what a test shows counts, what a test refutes is dropped; fixes and tests of a model's."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from helpers.commits import Commits
from minimax_code.errors import InputError
from minimax_code.model import Request
from minimax_code.review import render
from minimax_code.review.result import Review
from minimax_code.review.reviewer import review_range
from minimax_code.skills.calibration import Calibration
from minimax_code.skills.effort import Effort
from minimax_code.testing import ScriptedModel
from minimax_code.workbench import testrun

SHOP = "def half(x: float) -> float:\n    return x / 2\n\n\ndef twice(x: float) -> float:\n    return 2 * x\n"
TESTS = "from shop import twice\n\n\ndef test_twice() -> None:\n    assert twice(4) == 8\n"
BUG = SHOP.replace("x / 2", "x / 3")
FINDING = "shop.py:2 high `return x / 3` half of 6 is 2 and not 3"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest in the sandbox starts without the plugins that are installed here."""
    monkeypatch.setitem(testrun._ENV, "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def answer_with(call: str) -> str:
    """An answer with a test."""
    return f"```python test_problem.py\nfrom shop import half, twice\n\n\ndef test_it():\n    assert {call}\n```"


def stands(request: Request) -> str:
    """The letter of the claim that it is a mistake."""
    return "A" if "A: this is a mistake" in request.messages[-1].content else "B"


def review(folder: Path, new: str, script: Sequence[Any], config: Mapping[str, Any] | None = None) -> Review:
    commits = Commits(folder)
    commits.commit("base", {"shop.py": SHOP, "test_shop.py": TESTS})
    commits.commit("head", {"shop.py": new})
    effort = Effort(calibration=Calibration(model="scripted", judges=True))
    given = {"standards": [], **(config or {})}
    return asyncio.run(review_range(folder, "base..head", given, model=ScriptedModel(script), effort=effort))


def test_a_bug_that_no_test_knows_is_shown_by_one(tmp_path: Path) -> None:
    found = review(tmp_path, BUG, [FINDING, stands, stands, answer_with("half(6) == 3")])
    [issue] = found.issues
    assert (issue.line, issue.rule, issue.evidence, issue.severity) == (2, "model:reproduced", "test", "high")
    assert "assert half(6) == 3" in issue.details
    assert [comment.line for comment in found.comments] == [2]
    assert (found.model, found.read_by_model, found.usage.total_tokens > 0) == ("scripted", ("shop.py",), True)
    assert "Of the files, scripted has read 1." in render.markdown(found)


def test_what_a_test_refutes_is_dropped_and_told(tmp_path: Path) -> None:
    clean = SHOP.replace("x / 2", "x * 0.5")
    finding = "shop.py:2 high `return x * 0.5` this is slow"
    found = review(tmp_path, clean, [finding, stands, stands, answer_with("half(6) == 3")])
    assert (found.issues, found.comments, found.passed) == ((), (), True)
    assert found.dropped == ("shop.py:2: this is slow (a test that was to show it passes)",)
    assert "this is slow" in render.markdown(found)


def test_what_fails_on_both_sides_is_only_said(tmp_path: Path) -> None:
    clean = SHOP.replace("x / 2", "x * 0.5")
    finding = "shop.py:2 medium `return x * 0.5` it should round"
    found = review(tmp_path, clean, [finding, stands, stands, answer_with("half(5) == 2")], {"max_unproven": 0})
    [issue] = found.issues
    assert (issue.rule, issue.evidence) == ("model:said", "model")
    assert found.comments == ()
    assert "it should round" in render.markdown(found)


def test_what_is_far_from_the_change_is_dropped(tmp_path: Path) -> None:
    finding = "shop.py:6 high `return 2 * x` wrong"
    found = review(tmp_path, SHOP.replace("x / 2", "x * 0.5"), [finding, stands, stands])
    assert found.issues == ()
    assert found.dropped == ("shop.py:6: wrong (not about this change)",)


def test_a_model_that_cant_judge_is_not_asked(tmp_path: Path) -> None:
    commits = Commits(tmp_path)
    commits.commit("base", {"shop.py": SHOP})
    commits.commit("head", {"shop.py": BUG})
    model = ScriptedModel([])
    found = asyncio.run(review_range(tmp_path, "base..head", {"standards": []}, model=model, effort=Effort()))
    assert model.requests == []
    assert (found.model, found.read_by_model) == ("scripted", ())
    assert any("it can't judge" in note for note in found.notes)


def test_a_models_fix_is_kept_if_the_tests_pass_with_it(tmp_path: Path) -> None:
    bug = SHOP.replace("2 * x", "3 * x")
    for answer, kept in ((SHOP, 1), (SHOP.replace("2 * x", "4 * x"), 0)):
        script = ["none", f"```python shop.py\n{answer}```"]
        found = review(tmp_path / str(kept), bug, script, {"auto_fix": True})
        assert len(found.auto_fixes) == kept
        assert any("not kept" in note for note in found.notes) == (not kept)


def test_tests_of_a_model_are_kept_if_they_run_what_none_ran(tmp_path: Path) -> None:
    new = SHOP.replace("x / 2", "x * 0.5")
    written = "```python test_half.py\nfrom shop import half\n\n\ndef test_half():\n    assert half(6) == 3\n```"
    found = review(tmp_path, new, ["none", written], {"auto_test": True})
    [patch] = found.auto_tests
    assert patch.title == "shop.py: tests of 1 changed lines"
    assert "assert half(6) == 3" in patch.patch


RULES = "# Rules\n\nMoney is\nnever a `float`: use Decimal.\n\nA function says what it returns.\n"
BREAKS = 'shop.py:2 medium `return x / 3` RULES.md "Money is never a `float`" a half of a price is one'


def held(folder: Path, script: Sequence[Any], *, judges: bool = True) -> tuple[Review, ScriptedModel]:
    """The review of a change that changes the rules, too, by the rules that there were."""
    commits = Commits(folder)
    commits.commit("base", {"shop.py": SHOP, "RULES.md": RULES})
    commits.commit("head", {"shop.py": BUG, "RULES.md": "Nothing is forbidden.\n"})
    model, effort = ScriptedModel(script), Effort(calibration=Calibration(model="scripted", judges=judges))
    config = {"standards": ["RULES.md"]}
    return asyncio.run(review_range(folder, "base..head", config, model=model, effort=effort)), model


def breaks(request: Request) -> str:
    """The letter of the claim that the rule is broken, for a request that shows the whole rule."""
    asked = request.messages[-1].content
    return "A" if "A: this breaks the rule" in asked and "use Decimal." in asked else "B"


def test_a_rule_of_the_project_is_quoted_by_what_breaks_it(tmp_path: Path) -> None:
    unknown = 'shop.py:6 low `return 2 * x` RULES.md "Nothing is forbidden at all" so they say'
    found, model = held(tmp_path, [f"{BREAKS}\n{unknown}", breaks, breaks])
    [issue] = found.issues
    assert (issue.line, issue.rule, issue.evidence) == (2, "standard:RULES.md", "model")
    assert issue.message == 'a half of a price is one (RULES.md: "Money is never a `float`")'
    assert [issue.message in comment.body for comment in found.comments] == [True]
    assert "A function says what it returns." in model.requests[0].messages[-1].content
    assert any("1 findings of the model were left out: they don't quote" in note for note in found.notes)


def test_who_doesnt_stand_by_a_broken_rule_isnt_heard(tmp_path: Path) -> None:
    found, _ = held(tmp_path, [BREAKS, "A", "A"])  # the order decides
    assert (found.issues, found.passed) == ((), True)


def test_rules_that_nobody_would_read_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"config.standards: RULES.md would be read by nobody: .* scripted can't judge"
    ):
        held(tmp_path / "a", [], judges=False)
    with pytest.raises(InputError, match=r"config.standards: RULES.md would be read by nobody: .* there is none"):
        asyncio.run(review_range(tmp_path / "a", "base..head", {"standards": ["RULES.md"]}))
    with pytest.raises(InputError, match="config.standards: NO.md is no file that the base"):
        review(tmp_path / "b", BUG, [], {"standards": ["NO.md"]})
