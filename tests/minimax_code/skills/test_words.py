"""Tests, docstrings, explanations and reviews that a model writes."""

from __future__ import annotations

import ast
import asyncio

import pytest

from helpers.benches import MakeBench
from minimax_code.errors import InputError
from minimax_code.model import Abilities
from minimax_code.skills.calibration import Calibration
from minimax_code.skills.document import docstring_in, document
from minimax_code.skills.effort import Effort
from minimax_code.skills.explain import analyse, explain
from minimax_code.skills.review import review
from minimax_code.skills.sources import files_of
from minimax_code.skills.write_tests import TestWish, write_tests
from minimax_code.testing import ScriptedModel
from minimax_code.workbench.analysers import Analysers
from minimax_code.workbench.files import CodeFile

SOURCE = '''def discount(price, percent):
    if percent > 100:
        raise ValueError("too much")
    return price - price * percent / 100


class Basket:
    """A basket."""

    def total(self, prices):
        return sum(prices)


def _private():
    pass
'''
GOOD = """```python test_shop.py
import pytest
from shop import Basket, discount


def test_discount():
    assert discount(100, 10) == 90
    with pytest.raises(ValueError):
        discount(1, 101)
    assert discount(1, 100) == 0


class TestBasket:
    def test_total(self):
        assert Basket().total([1, 2]) == 3

    def test_wrong(self):
        assert Basket().total([1, 2]) == 4
```"""
WEAK = "```python\nimport shop\n\ndef test_it():\n    assert callable(shop.discount)\n```"
FEW = TestWish(num_mutants=2)
JUDGE = Effort(calibration=Calibration(model="scripted", judges=True))


def test_tests_are_left_with_what_passes_and_notices(make_bench: MakeBench) -> None:
    bench = make_bench({"shop.py": SOURCE})
    sources = files_of(bench, ["shop.py"])
    solution = asyncio.run(write_tests(ScriptedModel([GOOD]), bench, sources, wish=FEW))
    assert solution.verdict == "verified"
    [file] = solution.files
    assert "test_total" in file.content
    assert "test_wrong" not in file.content
    assert solution.notes[0].startswith(
        "left out, as it fails on the code as it is: test_shop.py::TestBasket::test_wrong"
    )
    assert "2 passed; they run " in solution.notes[1]
    assert (bench.workspace.path / file.path).read_text() == file.content


def test_tests_that_notice_nothing_are_plausible_and_lose_to_better_ones(make_bench: MakeBench) -> None:
    bench = make_bench({"shop.py": SOURCE})
    sources = files_of(bench, ["shop.py"])
    weak = asyncio.run(write_tests(ScriptedModel([WEAK]), bench, sources, wish=FEW))
    assert weak.verdict == "plausible"
    (bench.workspace.path / "test_shop.py").unlink()
    model, twice = ScriptedModel([WEAK, GOOD]), Effort(candidates=2)
    better = asyncio.run(write_tests(model, bench, sources, wish=FEW, effort=twice))
    assert (better.verdict, better.chosen) == ("verified", 2)


def test_tests_of_which_none_passes_are_not_kept(make_bench: MakeBench) -> None:
    bench = make_bench({"shop.py": SOURCE})
    wrong = "```python\ndef test_it():\n    assert False\n```"
    solution = asyncio.run(write_tests(ScriptedModel([wrong]), bench, files_of(bench, ["shop.py"])))
    assert (solution.verdict, solution.files) == ("failed", ())
    assert asyncio.run(bench.workspace.changed_files()) == []


def test_docstrings_are_put_in_and_nothing_else_changes(make_bench: MakeBench) -> None:
    bench = make_bench({"shop.py": SOURCE})
    said = [
        '"""A price after a discount.\n\n    Args:\n        price: of it.\n\n    >>> discount(100, 10)\n    90.0\n'
        '\n    >>> discount(100, 20)\n    90.0\n    """',
        '```python\n"""The sum of prices."""\n```',
    ]
    solution = asyncio.run(document(ScriptedModel(said), bench, files_of(bench, ["shop.py"])))
    [file] = solution.files
    tree = ast.parse(file.content)
    text = ast.get_docstring(tree.body[0]) or ""  # type: ignore[arg-type]
    assert text.startswith("A price after a discount.\n\nArgs:\n    price: of it.")
    assert "discount(100, 10)" in text
    assert "discount(100, 20)" not in text, "it isn't so"
    assert '"""The sum of prices."""' in file.content
    assert solution.verdict == "plausible"
    assert solution.notes == (
        "2 of 2 definitions without a docstring got one", "1 examples were left out: they fail, or can't be run",
    )  # fmt: skip
    assert (bench.workspace.path / "shop.py").read_text() == file.content


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("'''One.'''", "One."),
        ("One line.", "One line."),
        ('def f():\n    """Inside."""\n    return 1', "Inside."),
        ("def f():\n    return 1", ""),
        ('"""A \\d pattern."""', "A \\\\d pattern."),
        ("", ""),
    ],
)
def test_the_docstring_of_an_answer(answer: str, text: str) -> None:
    assert docstring_in(answer) == text


def test_only_python_that_parses_is_documented() -> None:
    for file in (CodeFile("a.js", ""), CodeFile("a.py", "def f(:")):
        with pytest.raises(InputError, match="files"):
            asyncio.run(document(ScriptedModel([]), None, [file]))


def test_what_an_explanation_refers_to_is_looked_up(make_bench: MakeBench) -> None:
    bench = make_bench({"shop.py": SOURCE})
    said = "In shop.py:4 `discount` subtracts; `Basket.total()` adds. See `round_up` and shop.py, line 99."
    solution = asyncio.run(explain(ScriptedModel([said]), bench, ["shop.py"], question="What is it?"))
    assert solution.text == said
    assert solution.notes == (
        "the answer refers to shop.py:99, which is not there", "the answer refers to `round_up`, which is not there",
    )  # fmt: skip
    assert solution.verdict == "unverified"


def test_an_analysis_starts_from_facts(make_bench: MakeBench) -> None:
    bench = make_bench({"shop.py": SOURCE + "\n\ndef run(text):\n    return eval(text)\n"})
    model = ScriptedModel(["`eval` is dangerous."])
    solution = asyncio.run(analyse(model, bench, "Find security holes", standards=["security"]))
    assert "shop.py:19 " in model.requests[0].messages[0].content
    assert any("bandit" in receipt.command for receipt in solution.receipts)


REVIEWED = [CodeFile("shop.py", SOURCE)]
FOUND = (
    "shop.py:40 high `return price - price * percent / 100` the price may be negative\n"
    "shop.py:2 low `if percent > 1000:` is not in the code\n"
    "- shop.py:9 medium: `def total(self, prices):` has no types\n"
)


def test_findings_of_a_model_quote_the_code_and_stand_a_second_look() -> None:
    facts = asyncio.run(Analysers().analyse(REVIEWED, ()))
    said = [FOUND, "A", "B", "A", "A"]  # of the first finding in both orders, then of the second
    found = asyncio.run(review(ScriptedModel(said), REVIEWED, facts, effort=JUDGE))
    [issue] = found.findings.issues
    assert (issue.line, issue.severity, issue.rule) == (4, "high", "model")
    assert found.notes == (
        "1 findings of the model were left out: they don't quote the code",
        "1 were left out: the model doesn't stand by them",
    )
    assert found.read == ("shop.py",)


def test_of_a_file_too_long_the_model_reads_what_is_near_the_change() -> None:
    lines = [f"x{number} = {number}" for number in range(1, 2001)]
    lines[1199] = "total = 2 - 1"
    files = [CodeFile("long.py", "\n".join(lines) + "\n"), CodeFile("other.py", "\n".join(lines) + "\n")]
    model = ScriptedModel(
        ["- long.py:1190 [high] `total = 2 - 1`: it has to add", "A", "B"],
        abilities=Abilities(context_tokens=4096),
    )
    facts = asyncio.run(Analysers().analyse(files, ()))
    found = asyncio.run(review(model, files, facts, effort=JUDGE, changed={"long.py": {1200}}))
    [issue] = [issue for issue in found.findings.issues if issue.rule == "model"]
    assert (issue.file, issue.line, found.read) == ("long.py", 1200, ("long.py",))
    asked = model.requests[0].messages[0].content
    assert "x1190 = " in asked and "x900 = " not in asked and "x2000 = " not in asked
    assert found.notes == (
        "of long.py the model has read what is near the change: the rest doesn't fit",
        "other.py was not read by the model: it doesn't fit into its window",
    )


def test_a_model_that_cant_judge_is_not_asked() -> None:
    facts = asyncio.run(Analysers().analyse(REVIEWED, ()))
    found = asyncio.run(review(ScriptedModel([]), REVIEWED, facts))
    assert found.findings == facts
    assert "can't judge" in found.notes[0]
