"""The judge of the benchmark of code: right answers pass, and nothing else does."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minimax_code.model import Request
from minimax_code.testing import ScriptedModel
from minimax_code.workbench.mutate import mutants_of
from minimax_code.workbench.sandbox import find_sandbox

_RIGHT = "def total(prices):\n    return sum(prices)\n\n\ndef most(prices):\n    return max(prices, default=0)\n"
_WRONG = _RIGHT.replace("max(prices, default=0)", "max(prices)")
_TESTS = "import shop\n\ndef test_total():\n    assert shop.total([1, 2]) == 3\n"
_NEW_TESTS = f"""{_TESTS}
def test_most():
    assert shop.most([1, 2]) == 2

def test_most_of_nothing():
    assert shop.most([]) == 0
"""


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not installed."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))


def test_references_pass_and_cheats_fail() -> None:
    from benchmarks.code_humaneval import CHEATS, passes, problems

    sandbox = find_sandbox()
    every = {one.name: one for one in problems()}
    assert len(every) == 164
    # Functions of the problem in its checks, numbers, text.
    for number in (32, 39, 50):
        one = every[f"HumanEval/{number}"]
        assert asyncio.run(passes(sandbox, one, one.reference))
    one = every["HumanEval/39"]
    assert not any(asyncio.run(passes(sandbox, one, answer)) for answer in ("", *CHEATS.values()))


def sdist(folder: Path, version: str, source: str, tests: str) -> dict[str, str]:
    """An archive in the cache's folder, as a recipe names it."""
    tree = folder / f"shop-{version}"
    for path, text in (("shop/__init__.py", source), ("tests/test_shop.py", tests)):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    archive = folder / f"shop-{version}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tree, tree.name)
    return {"project": "shop", "file": archive.name, "sha256": hashlib.sha256(archive.read_bytes()).hexdigest()}


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """Of two releases, both in the cache, so that nothing is fetched."""
    return {
        "name": "shop-2", "statement": "most() of nothing is 0.", "sources": ["shop"], "tests": ["tests"], "data": [],
        "options": "", "needs": [], "failing": ["tests/test_shop.py::test_most_of_nothing"], "passing": 2,
        "old": sdist(tmp_path, "1", _WRONG, _TESTS), "new": sdist(tmp_path, "2", _RIGHT, _NEW_TESTS),
    }  # fmt: skip


def test_a_task_of_two_releases_is_judged_and_no_cheat_passes(recipe: dict[str, Any], tmp_path: Path) -> None:
    from benchmarks.code_book import Book
    from benchmarks.code_cache import Cache
    from benchmarks.code_gate import gate_tasks
    from benchmarks.code_tasks import sdist_task

    with Cache(tmp_path) as cache:
        sandbox = find_sandbox(readable=[cache.needs])
        book = tmp_path / "results.jsonl"
        gate = asyncio.run(gate_tasks(sandbox, [sdist_task(recipe, cache)], Book(book)))
        assert gate["holds"], gate
        (row,) = gate["rows"]
        assert (row["failing"], row["passing"]) == (1, 2)
        # What is known isn't asked again, and a line that was cut off is no line.
        book.write_text(book.read_text() + '{"key": "gate')
        again = asyncio.run(gate_tasks(sandbox, [sdist_task(recipe, cache)], Book(book)))
        assert again["rows"] == gate["rows"]
        # A recipe that isn't true is found out.
        lies = {**recipe, "failing": ["tests/test_shop.py::test_total"]}
        wrong = asyncio.run(gate_tasks(sandbox, [sdist_task(lies, cache)], Book(book)))["rows"][0]["wrong"]
        assert wrong == ["other tests fail than the recipe says", "empty: mends its tests"]


def test_the_command_judges_tasks_of_a_released_package(tmp_path: Path) -> None:
    names = ["sdist/xmltodict-1.0.3", "mutation/xmltodict-1"]
    command = [sys.executable, "-m", "benchmarks.code", "--results", str(tmp_path / "results.jsonl"), "--tasks", *names]
    root = Path(__file__).parents[2]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    told = json.loads(said[-1])["tasks"]
    assert {kind: (one["of"], one["wrong"]) for kind, one in told.items()} == {"sdist": (1, {}), "mutation": (1, {})}


def test_another_archive_than_the_recipe_names_is_refused(recipe: dict[str, Any], tmp_path: Path) -> None:
    from benchmarks.code_cache import Cache
    from benchmarks.code_tasks import sdist_task

    (tmp_path / recipe["new"]["file"]).write_bytes(b"something else")
    with Cache(tmp_path) as cache, pytest.raises(SystemExit, match="sha256 is another"):
        sdist_task(recipe, cache)


@pytest.fixture
def mutant(recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Of the newer release."""
    from benchmarks import code_tasks

    (tmp_path / "recipes.json").write_text(json.dumps([recipe]))
    monkeypatch.setattr(code_tasks, "RECIPES", tmp_path / "recipes.json")
    one = next(one for one in mutants_of("shop/__init__.py", _RIGHT.encode()) if one.line == 2)
    return {
        "name": "shop-1", "of": "shop-2", "path": "shop/__init__.py", "line": 2, "change": one.change,
        "sha256": hashlib.sha256(one.source).hexdigest(), "failing": ["tests/test_shop.py::test_total"], "passing": 2,
    }  # fmt: skip


@pytest.mark.parametrize("mends", [True, False])
def test_a_model_works_on_a_changed_line(mutant: dict[str, Any], tmp_path: Path, mends: bool) -> None:
    from benchmarks.code_cache import Cache
    from benchmarks.code_model import do_task, summary
    from benchmarks.code_tasks import mutation_task, passed, run_suite

    def answers() -> Iterator[Any]:
        def answer(request: Request) -> str:
            assert "shop/__init__.py" in request.messages[-1].content
            return f"shop/__init__.py\n```python\n{_RIGHT if mends else _WRONG}```\n"

        while True:
            yield answer

    with Cache(tmp_path) as cache:
        sandbox = find_sandbox(readable=[cache.needs])
        task = mutation_task(mutant, cache)
        wanted = passed(asyncio.run(run_suite(sandbox, task.suite, task.suite.new)))
        assert len(wanted) == 3
        row = asyncio.run(
            do_task(
                ScriptedModel(answers()), sandbox, task, wanted, "pipeline",
                constraints={"budget_limit": "3 API calls"}, calibrations=tmp_path / "calibrations",
            )
        )  # fmt: skip
    assert row["passed"] == mends
    told = summary({"pipeline": [{**row, "seconds": 1.0}]})["pipeline"]
    assert (told["passed"], told["of"], told["solved"]) == (int(mends), 1, ["mutation/shop-1"] if mends else [])
