"""Fixes and refactorings: what is kept passes what it has to, and what passed before."""

from __future__ import annotations

import asyncio

import pytest

from helpers.benches import MakeBench
from minimax_code.errors import InputError
from minimax_code.skills.answer import fenced
from minimax_code.skills.change import fix, refactor
from minimax_code.skills.checks import Checks
from minimax_code.skills.effort import Effort
from minimax_code.testing import ScriptedModel
from minimax_code.workbench.files import CodeFile

SOURCE = """def middle(items: list[int]) -> int:
    return items[len(items) // 2 + 1]


def first(items):
    return items[0]
"""
GOOD, BAD = SOURCE.replace(" + 1", ""), SOURCE.replace("+ 1", "- 1")
BREAKS = GOOD.replace("items[0]", "items[1]")
TESTS = "from shop import first, middle\n\n\ndef test_first():\n    assert first([4, 5]) == 4\n"
FAILS = "\n\ndef test_middle():\n    assert middle([1, 2, 3]) == 2\n"
ONE_TEST = f"```python test_problem.py\nfrom shop import middle\n{FAILS}```"


def answer(source: str) -> str:
    return f"I change it.\n{fenced(CodeFile('shop.py', source))}"


def test_a_failing_test_is_what_has_to_pass(make_bench: MakeBench) -> None:
    bench = make_bench({"shop.py": SOURCE, "test_shop.py": TESTS + FAILS})
    model = ScriptedModel([answer(BAD), answer(BREAKS), answer(GOOD), answer(GOOD), answer(GOOD)])
    solution = asyncio.run(fix(model, bench, "middle is wrong", effort=Effort(candidates=5)))
    assert (solution.verdict, solution.chosen) == ("verified", 3)
    assert (bench.workspace.path / "shop.py").read_text() == GOOD
    assert solution.receipts[-1].cases[0].outcome == "passed"
    asked = model.requests[0].messages[-1].content
    assert "test_middle" in asked, "the failure is shown"
    assert "return items[0]" in asked, "and the file, which was found by its names"


def test_a_fix_that_doesnt_hold_changes_nothing(make_bench: MakeBench) -> None:
    cheat = "```python test_shop.py\ndef test_middle(): pass\n```"
    bench = make_bench({"shop.py": SOURCE, "test_shop.py": TESTS + FAILS})
    model = ScriptedModel([answer(BAD), cheat])
    solution = asyncio.run(fix(model, bench, "middle is wrong", effort=Effort(candidates=2)))
    assert (solution.verdict, solution.files) == ("failed", ())
    assert asyncio.run(bench.workspace.changed_files()) == []
    assert "nothing was changed: " in solution.notes[-1]


def test_without_a_failing_test_one_is_written_first(make_bench: MakeBench) -> None:
    bench = make_bench({"shop.py": SOURCE, "test_shop.py": TESTS})
    model = ScriptedModel([ONE_TEST, answer(GOOD)])
    solution = asyncio.run(fix(model, bench, "`middle([1, 2, 3])` returns 3", paths=["shop.py"]))
    assert solution.verdict == "plausible", "the model has written the test itself"
    assert solution.notes[0] == "test_problem.py was written and fails at the start"
    assert (bench.workspace.path / "shop.py").read_text() == GOOD


@pytest.mark.parametrize("body", ["assert middle([1, 2, 3]) == 3", "import nothing_like_it", "1 / 0"])
def test_a_test_that_fails_otherwise_shows_no_problem(make_bench: MakeBench, body: str) -> None:
    bench = make_bench({"shop.py": SOURCE})
    test = f"```python\nfrom shop import middle\n\ndef test_it():\n    {body}\n```"
    solution = asyncio.run(fix(ScriptedModel([test, answer(GOOD)]), bench, "wrong", paths=["shop.py"]))
    assert solution.verdict == "unverified"
    assert "no test shows the problem" in solution.notes[1]


def test_checks_of_the_caller_come_first(make_bench: MakeBench) -> None:
    bench = make_bench({"shop.py": SOURCE})
    checks = Checks(tests=(CodeFile("test_m.py", "from shop import middle\n" + FAILS),))
    solution = asyncio.run(fix(ScriptedModel([answer(GOOD)]), bench, "wrong", paths=["shop.py"], checks=checks))
    assert solution.verdict == "verified"


def test_a_refactoring_that_tests_run_is_verified(make_bench: MakeBench) -> None:
    after = SOURCE.replace("items[0]", "next(iter(items))")
    bench = make_bench({"shop.py": SOURCE, "test_shop.py": TESTS})
    solution = asyncio.run(refactor(ScriptedModel([answer(after)]), bench, "use iterators", paths=["shop.py"]))
    assert solution.verdict == "verified"
    assert (bench.workspace.path / "shop.py").read_text() == after


def test_without_tests_functions_are_called_before_and_after(make_bench: MakeBench) -> None:
    same = SOURCE.replace(
        "    return items[len(items) // 2 + 1]", "    place = len(items) // 2\n    return items[place + 1]"
    )
    for after, verdict in ((same, "plausible"), (GOOD, "failed")):
        bench = make_bench({"shop.py": SOURCE})
        solution = asyncio.run(refactor(ScriptedModel([answer(after)]), bench, "be clear", paths=["shop.py"]))
        assert solution.verdict == verdict
    assert "before the change, and is" in solution.notes[0]
    assert (bench.workspace.path / "shop.py").read_text() == SOURCE


def test_a_path_that_isnt_there_is_named(make_bench: MakeBench) -> None:
    with pytest.raises(InputError, match="no.py"):
        asyncio.run(refactor(ScriptedModel([]), make_bench({"shop.py": SOURCE}), "x", paths=["no.py"]))
