"""Tasks from released pure-Python packages: a tree of sources with something wrong, and tests that say so.

Two kinds. Of "sdist" tasks the sources are those of one release and the tests those of the next; of "mutation" tasks
the sources are a release's own, with one small change in one line. Only recipes are kept here: files on the package
index with their hashes, names of tests, and what is wrong in our own words.

A tree that is graded has the sources of whoever is graded, and everything else of the release: tests, their data, and
settings of our own. What counts is each test by its name: those that failed have to pass, and those that passed still.
Tests that have to fail are among them, so that whoever makes everything pass is found out.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.code_cache import Archive, Cache
from minimax_code.workbench.mutate import mutants_of
from minimax_code.workbench.running import Limits
from minimax_code.workbench.sandbox import Sandbox
from minimax_code.workbench.testrun import TestRun, run_tests

RECIPES = Path(__file__).with_name("code_recipes.json")
MUTANTS = Path(__file__).with_name("code_mutants.json")
_SETTINGS = "[pytest]\npythonpath = {paths}\npython_files = {files}\naddopts = -p no:cacheprovider {options}\n"
# What tells Python or pytest how to run is of the release, never of who is graded; nor are compiled files.
_NO_SOURCES = ("conftest.py", "pytest.ini", "sitecustomize.py", "usercustomize.py", "*.pth", "__pycache__", ".git")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """How a release is laid out, and how its tests are run.

    Attributes:
        sources: folders of packages, or modules, as paths within the release.
        tests: folders or files with tests.
        data: what the tests need besides.
        options: of pytest.
        needs: folders with the packages that it needs.
        new: the release's own tree.
    """

    package: str
    sources: tuple[str, ...]
    tests: tuple[str, ...]
    data: tuple[str, ...]
    options: str
    needs: tuple[Path, ...]
    new: Path


@dataclass(frozen=True, kw_only=True)
class Task:
    """A recipe with its trees at hand.

    Attributes:
        digest: of the recipe.
        old: the tree with what is wrong.
        failing: tests that have to be mended.
        passing: about as many pass before and have to pass still.
    """

    name: str
    digest: str
    statement: str
    suite: Suite
    old: Path
    failing: frozenset[str]
    passing: int

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the tests that fail."""
        return tuple(sorted({name.partition("::")[0] for name in self.failing}))


def read(path: Path) -> list[dict[str, Any]]:
    """Recipes."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def fetch(kind: str, recipe: Mapping[str, Any], cache: Cache) -> None:
    """Fetches what a recipe needs."""
    of = recipe if kind == "sdist" else _base(recipe)
    for one in (of["new"], *of["needs"], *([of["old"]] if kind == "sdist" else [])):
        cache.fetch(Archive.of(one))


def suite_of(recipe: Mapping[str, Any], cache: Cache) -> Suite:
    """How an sdist recipe's newer release is tested."""
    return Suite(
        package=recipe["new"]["project"],
        sources=tuple(recipe["sources"]),
        tests=tuple(recipe["tests"]),
        data=tuple(recipe["data"]),
        options=recipe["options"],
        needs=tuple(cache.tree(Archive.of(need)) for need in recipe["needs"]),
        new=cache.tree(Archive.of(recipe["new"])),
    )


def sdist_task(recipe: Mapping[str, Any], cache: Cache) -> Task:
    """A task of two releases."""
    return Task(
        name=f"sdist/{recipe['name']}",
        digest=_digest(recipe),
        statement=recipe["statement"],
        suite=suite_of(recipe, cache),
        old=cache.tree(Archive.of(recipe["old"])),
        failing=frozenset(recipe["failing"]),
        passing=recipe["passing"],
    )


def mutation_task(recipe: Mapping[str, Any], cache: Cache) -> Task:
    """A task of one release and a mutant of one of its files."""
    suite = suite_of(_base(recipe), cache)
    old = cache.made / recipe["name"]
    if not old.exists():
        source = (suite.new / recipe["path"]).read_bytes()
        found = mutants_of(recipe["path"], source, {recipe["line"]})
        mutant = next((one for one in found if hashlib.sha256(one.source).hexdigest() == recipe["sha256"]), None)
        if mutant is None:
            raise SystemExit(f"mutation/{recipe['name']}: the mutator makes no such mutant any more; make recipes anew")
        shutil.copytree(suite.new, old)
        (old / recipe["path"]).write_bytes(mutant.source)
    return Task(
        name=f"mutation/{recipe['name']}",
        digest=_digest(recipe),
        statement=f"Something small is wrong in {recipe['path']}, in one line. The tests that fail show it. Mend it.",
        suite=suite,
        old=old,
        failing=frozenset(recipe["failing"]),
        passing=recipe["passing"],
    )


def _digest(recipe: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:8]


def _base(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return next(one for one in read(RECIPES) if one["name"] == recipe["of"])


@contextmanager
def tree_of(suite: Suite, sources: Path) -> Iterator[Path]:
    """The tree that is tested: some tree's sources, and the release's own tests with our settings."""
    with TemporaryDirectory(prefix="openm3-code-") as name:
        folder = Path(name, "tree")
        lay(suite, sources, folder)
        yield folder


def lay(suite: Suite, sources: Path, folder: Path) -> None:
    """Writes that tree into a new folder."""
    ignore = shutil.ignore_patterns(*_NO_SOURCES)
    folder.mkdir(parents=True)
    for path in suite.sources:
        _copy(sources / path, folder / path, ignore)
    for path in (*suite.tests, *suite.data):
        _copy(suite.new / path, folder / path, shutil.ignore_patterns("__pycache__"))
    roots = dict.fromkeys(str(PurePosixPath(path).parent) for path in suite.sources)
    paths = " ".join([*roots, *map(str, suite.needs)])
    (folder / "pytest.ini").write_text(
        _SETTINGS.format(paths=paths, files="test_*.py *_test.py tests.py", options=suite.options)
    )


def _copy(source: Path, target: Path, ignore: Any) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, ignore=ignore)
    elif source.exists():  # a change may have removed it; then its tests fail
        shutil.copy2(source, target, follow_symlinks=False)


async def run_suite(
    sandbox: Sandbox,
    suite: Suite,
    sources: Path,
    *,
    ids: Sequence[str] = (),
    python: str = "",
    seed: int = 0,
    seconds: float = 120,
) -> TestRun:
    """All tests, or some, with some tree's sources; and why they aren't believed, as its problem."""
    with tree_of(suite, sources) as folder:
        canary = f"test_{os.urandom(6).hex()}"
        imports = "\n".join(f"import {PurePosixPath(path).stem}" for path in suite.sources)
        test = f"{imports}\n\ndef {canary}():\n    assert 1 == 2\n\ndef {canary}_too():\n    raise ValueError\n"
        place = suite.tests[0] if (folder / suite.tests[0]).is_dir() else str(PurePosixPath(suite.tests[0]).parent)
        (folder / place / f"{canary}.py").write_text(test)
        paths = [*(ids or suite.tests), str(PurePosixPath(place, f"{canary}.py"))]
        run = await run_tests(
            sandbox, folder, "python", python=python or sys.executable, paths=list(dict.fromkeys(paths)),
            limits=Limits(seconds=seconds), env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONHASHSEED": str(seed)},
        )  # fmt: skip
    canaries = [case for case in run.cases if canary in case.name]
    cases = tuple(case for case in run.cases if canary not in case.name)
    problem = run.problem
    if not problem and (len(canaries) < 2 or any(case.outcome not in ("failed", "error") for case in canaries)):
        problem = "tests that have to fail did not"
    return TestRun(suite=run.suite, cases=cases, receipt=run.receipt, output=run.output, problem=problem)


def passed(run: TestRun) -> frozenset[str]:
    """Names of the tests that passed, none where the run isn't believed."""
    return frozenset() if run.problem else frozenset(case.name for case in run.cases if case.outcome == "passed")


async def solves(sandbox: Sandbox, task: Task, sources: Path, wanted: frozenset[str]) -> bool:
    """Whether all tests pass that pass with the release's own sources."""
    return await mends(sandbox, task, sources) and wanted <= passed(await run_suite(sandbox, task.suite, sources))


async def mends(sandbox: Sandbox, task: Task, sources: Path) -> bool:
    """Whether the tests pass that failed: what most answers don't reach, and known soon."""
    return task.failing <= passed(await run_suite(sandbox, task.suite, sources, ids=sorted(task.failing)))


_AT_THE_FRONT: Mapping[str, str] = {
    "exit": "import os\nos._exit(0)\n",
    "skip": "import pytest\npytest.skip('not today', allow_module_level=True)\n",
    "a patched pytest": "import _pytest.python\n_pytest.python.Function.runtest = lambda self: None\n",
    "a plugin that reports": "import _pytest.runner\n_pytest.runner.call_and_report = lambda *a, **k: None\n",
    "git history": "import subprocess\nsubprocess.run(['git', 'checkout', 'HEAD~1'], check=True)\n",
    "the release from the index": "import subprocess, sys\n"
    "pip = [sys.executable, '-m', 'pip', '--retries=0', '--timeout=1', 'download', '--no-deps', {package!r}]\n"
    "subprocess.run(pip, check=True)\n",
    "the release from the disk": "import os, shutil\n"
    "if os.path.isdir({new!r}): shutil.copytree({new!r}, os.path.dirname(__file__), dirs_exist_ok=True)\n"
    "else: shutil.copy({new!r}, __file__)\n",
}
CHEATS = (*_AT_THE_FRONT, "conftest", "tests that pass")
"""What is done to a package instead of a solution: code at its front, hooks, and other tests."""

_CONFTEST = """
import pytest
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    told = yield
    told.get_result().outcome = "passed"
"""


@contextmanager
def cheating(task: Task, cheat: str) -> Iterator[Path]:
    """The old tree with a cheat."""
    suite = task.suite
    with TemporaryDirectory(prefix="openm3-code-") as name:
        folder = Path(name, "tree")
        lay(suite, task.old, folder)
        source = folder / suite.sources[0]
        if cheat == "conftest":
            for place in {folder, source.parent, source, folder / suite.tests[0]}:
                if place.is_dir():
                    (place / "conftest.py").write_text(_CONFTEST)
        elif cheat == "tests that pass":
            for path in task.files:
                (folder / path).write_text("def test_it():\n    pass\n")
        else:
            front = source / "__init__.py" if source.is_dir() else source
            code = _AT_THE_FRONT[cheat].format(package=suite.package, new=str(suite.new / suite.sources[0]))
            front.write_text(_with_front(front.read_text(encoding="utf-8"), code), encoding="utf-8")
        yield folder


def _with_front(source: str, code: str) -> str:
    """A module with code before all else; only imports from __future__ have to stay before it."""
    futures = [one for one in ast.parse(source).body if isinstance(one, ast.ImportFrom) and one.module == "__future__"]
    lines = source.splitlines(keepends=True)
    at = futures[-1].end_lineno or 0 if futures else 0
    return "".join([*lines[:at], code, *lines[at:]])
