"""Tasks that change nothing of what code does: a pipeline has other skills for them, and they are proved otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from minimax_code.events import MemoryLog, ToolEnded, ToolIntended
from minimax_code.permissions import Permissions
from minimax_code.skills.calibration import Calibration, keep_calibration
from minimax_code.work.kind import kind_of

from .conftest import DONE, PASS, PLAN, Shop, last, task, write

LOOP = "def total(prices):\n    result = 0\n    for price in prices:\n        result += price\n    return result\n"
TEST = "from cart import total\n\n\ndef test_total():\n    assert total([1, 2]) == 3\n"
WRONG = "```python cart.py\ndef total(prices):\n    return prices[0] + prices[1]\n```"
RIGHT = "```python cart.py\ndef total(prices):\n    return sum(prices)\n```"


@pytest.mark.parametrize(
    ("description", "kind"),
    [
        ("Refactor cart.py", "refactor"),
        ("Simplify total() without changing its behaviour", "refactor"),
        ("Write tests for cart.py", "tests"),
        ("Add more unit tests", "tests"),
        ("Create comprehensive test suite and CI/CD pipeline", "tests"),
        ("Add docstrings to cart.py", "document"),
        ("Document every function of cart.py", "document"),
        ("Write a calculator with tests", "behaviour"),
        ("total() adds up the prices", "behaviour"),
        ("Implement the backend API and database layer", "behaviour"),
        ("Refactor cart.py and write tests for it", None),
        ("Clean up total(); it should also take a tax", None),
    ],
)
def test_what_words_ask_for(description: str, kind: str | None) -> None:
    assert kind_of(description) == kind


def used(log: MemoryLog) -> list[str]:
    return [one.event.call.name for one in log.recorded if isinstance(one.event, ToolIntended)]


def test_a_refactoring_does_what_the_code_did(shop: Shop) -> None:
    shop.lay_tests()
    shop.lay({"cart.py": LOOP})
    log = MemoryLog()
    asked = task(description="Refactor total() to use built-ins", checks=())
    result = shop.run(asked, [WRONG, WRONG, RIGHT, WRONG, WRONG, PASS], log=log, strategy="pipeline")
    assert (result.success, result.deliverables, used(log)) == (True, ("cart.py",), ["refactor"]), result
    assert "sum(prices)" in result.diff, "which is right for one price too"
    assert result.contract and [check.text for check in result.contract.checks] == ["python -m pytest"]


def test_tests_are_written_that_notice_something(shop: Shop) -> None:
    (shop.folder / "check.py").unlink()
    shop.lay({"cart.py": LOOP, "util.py": "def other():\n    return 1\n"})
    log, asked = MemoryLog(), task(description="Write tests for cart.py", checks=())
    result = shop.run(asked, [f"```python test_cart.py\n{TEST}```", PASS], log=log, strategy="pipeline")
    assert (result.success, result.files_created, used(log)) == (True, ("test_cart.py",), ["write_tests"]), result
    assert "def other" not in last(shop.model.requests[0]).content, "it is shown what it is asked about"
    [mutants] = [receipt for receipt in result.receipts if receipt.command[0] == "mutants:"]
    assert mutants.command == ("mutants:", "cart.py")


def test_an_agent_s_tests_are_proved_the_same(shop: Shop) -> None:
    """No test can fail without such work, so none is written to measure it."""
    (shop.folder / "check.py").unlink()
    shop.lay({"cart.py": LOOP})
    idle = write("test_cart.py", "import cart\n\n\ndef test_total():\n    assert cart\n")
    asked = task(description="Write tests for cart.py", checks=())
    result = shop.run(asked, [PLAN, idle, DONE, write("test_cart.py", TEST), DONE, PASS])
    assert (result.success, result.files_created) == (True, ("test_cart.py",)), result


def test_docstrings_and_nothing_else(shop: Shop) -> None:
    shop.lay_tests()
    shop.lay({"cart.py": LOOP})
    log, asked = MemoryLog(), task(description="Add docstrings to cart.py", checks=())
    result = shop.run(asked, ['"""The sum of the prices."""', PASS], log=log, strategy="pipeline")
    assert (result.success, used(log)) == (True, ["document"]), result
    assert [line for line in result.diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")] == [
        '+    """The sum of the prices."""'
    ]
    [ended] = [one.event for one in log.recorded if isinstance(one.event, ToolEnded)]
    assert ended.output.startswith("plausible, by the best of 1 answers: 1 of 1 definitions")


def test_a_rule_keeps_what_a_skill_has_written_out(shop: Shop) -> None:
    asked = task(description="Add docstrings to cart.py", checks=())
    rules = Permissions.of("deny write(cart.py)")
    result = shop.run(asked, ['"""Sums."""'], strategy="pipeline", permissions=rules, rounds=1)
    assert (result.success, result.deliverables) == (False, ())


@pytest.mark.parametrize(("said", "skill"), [("It is a refactor", "refactor"), ("I don't know", "fix")])
def test_where_words_say_two_things_a_model_that_judges_is_asked(
    shop: Shop, tmp_path: Path, said: str, skill: str
) -> None:
    shop.lay_tests()
    shop.lay({"cart.py": LOOP})
    keep_calibration(Calibration(model="scripted", judges=True), tmp_path / "cache")
    log, checks = MemoryLog(), ["pytest tests/test_cart.py"]
    asked = task(description="Simplify total(); it should add up the prices", checks=checks)
    options = {"strategy": "pipeline", "calibrations": tmp_path / "cache"}
    result = shop.run(asked, [said, RIGHT, PASS], log=log, **options)
    assert (result.success, used(log)) == (True, [skill]), result
    assert "Answer with one of these four words" in last(shop.model.requests[0]).content
