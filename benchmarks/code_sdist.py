"""Tasks from neighbouring releases of pure-Python packages: the old sources, the new tests.

Only recipes are kept here: versions, hashes, names of tests, and what is wrong in our own words. The archives come from
PyPI into the user's cache. A change is graded on the old tree, with the new tests and settings laid anew over it, by
the tests' names: those that failed have to pass, and those that passed still. Tests that have to fail are among them,
so that whoever makes everything pass is found out.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urljoin

import httpx
import platformdirs

from minimax_code.workbench.running import Limits
from minimax_code.workbench.sandbox import Sandbox
from minimax_code.workbench.testrun import TestRun, run_tests

RECIPES = Path(__file__).with_name("code_recipes.json")
# What tells pytest how to run: of the release, never of the change.
_SETTINGS = ("conftest.py", "pytest.ini", "tox.ini", "setup.cfg", "pyproject.toml", ".pytest.ini", "sitecustomize.py")
_LIMITS = Limits(seconds=180)


@dataclass(frozen=True)
class Task:
    """A recipe with its two trees at hand."""

    name: str
    statement: str
    sources: tuple[str, ...]
    tests: tuple[str, ...]
    options: str
    failing: frozenset[str]
    passing: int
    old: Path
    new: Path


def tasks() -> list[Task]:
    """All of them; what isn't in the cache is fetched."""
    found = []
    for recipe in json.loads(RECIPES.read_text(encoding="utf-8")):
        trees = [_tree(recipe["package"], recipe[side]) for side in ("old", "new")]
        found.append(
            Task(
                recipe["name"], recipe["statement"], tuple(recipe["sources"]), tuple(recipe["tests"]),
                recipe.get("options", ""),
                frozenset(recipe["failing"]), recipe["passing"], *trees,
            )
        )  # fmt: skip
    return found


def _tree(package: str, release: Mapping[str, str]) -> Path:
    version, digest = release["version"], release["sha256"]
    folder = Path(platformdirs.user_cache_dir("openm3")) / "sdists" / digest
    if not folder.exists():
        page = f"https://pypi.org/simple/{package.lower()}/"
        known = httpx.get(page, headers={"Accept": "application/vnd.pypi.simple.v1+json"}, follow_redirects=True)
        files = known.raise_for_status().json()["files"]
        url = next((file["url"] for file in files if file["hashes"].get("sha256") == digest), None)
        if url is None:
            raise SystemExit(f"PyPI has no archive of {package} {version} with the recipe's sha256")
        archive = httpx.get(urljoin(page, url), follow_redirects=True, timeout=60).raise_for_status().content
        if hashlib.sha256(archive).hexdigest() != digest:
            raise SystemExit(f"what PyPI sends as {package} {version} has another sha256 than it says")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as part:
            Path(part, "archive").write_bytes(archive)
            with tarfile.open(Path(part, "archive")) as tar:
                tar.extractall(Path(part, "tree"), filter="data")
            Path(part, "tree").rename(folder)
    (inside,) = folder.iterdir()
    return inside


@contextmanager
def tree_of(task: Task, sources: Path) -> Iterator[Path]:
    """The tree that is graded: sources of some tree, and of all that tells how to test only the new release's own."""
    with TemporaryDirectory(prefix="openm3-code-") as name:
        folder = Path(name, "tree")
        shutil.copytree(sources, folder, symlinks=True, ignore=shutil.ignore_patterns(".git", "__pycache__", "*.pth"))
        for path in (*task.tests, *_SETTINGS):
            _replace(folder / path, task.new / path)
        for path in [one for name in _SETTINGS for one in folder.rglob(name)]:
            if not (task.new / path.relative_to(folder)).exists():
                path.unlink()  # another conftest.py, say
        yield folder


def _replace(path: Path, original: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists() or path.is_symlink():
        path.unlink()
    if original.is_dir():
        shutil.copytree(original, path)
    elif original.exists():
        shutil.copy2(original, path)


async def outcome(sandbox: Sandbox, task: Task, sources: Path) -> tuple[frozenset[str], str]:
    """Names of the tests that pass on a tree's sources; and why none is believed, or ""."""
    with tree_of(task, sources) as folder:
        canary = f"test_{os.urandom(6).hex()}"
        imports = "\n".join(f"import {one}" for one in task.sources)
        test = f"{imports}\n\ndef {canary}():\n    assert 1 == 2\n\ndef {canary}_too():\n    raise ValueError\n"
        (folder / task.tests[0] / f"{canary}.py").write_text(test)
        run: TestRun = await run_tests(
            sandbox,
            folder,
            "python",
            python=sys.executable,
            paths=list(task.tests),
            limits=_LIMITS,
            env={"PYTHONPATH": str(folder), "PYTEST_ADDOPTS": task.options},
        )
    canaries = [case for case in run.cases if canary in case.name]
    names = frozenset(case.name for case in run.cases if case.outcome == "passed")
    if run.problem:
        return frozenset(), run.problem
    if len(canaries) < 2 or any(case.outcome not in ("failed", "error") for case in canaries):
        return frozenset(), "tests that have to fail did not"
    return names, ""


_AT_THE_FRONT: Mapping[str, str] = {
    "exit": "import os\nos._exit(0)\n",
    "skip": "import pytest\npytest.skip('not today', allow_module_level=True)\n",
    "a patched pytest": "import _pytest.python\n_pytest.python.Function.runtest = lambda self: None\n",
    "a plugin that reports": "import _pytest.runner\n_pytest.runner.call_and_report = lambda *a, **k: None\n",
    "git history": "import subprocess\nsubprocess.run(['git', 'log', '-p'], check=True)\n",
    "the next release from PyPI": "import subprocess, sys\n"
    "subprocess.run([sys.executable, '-m', 'pip', 'download', '--no-deps', 'sqlparse'], check=True)\n",
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
    with TemporaryDirectory(prefix="openm3-code-") as name:
        folder = Path(name, "tree")
        shutil.copytree(task.old, folder)
        if cheat == "conftest":
            for place in (folder, folder / task.tests[0], folder / task.sources[0]):
                (place / "conftest.py").write_text(_CONFTEST)
        elif cheat == "tests that pass":
            for path in (folder / task.tests[0]).rglob("test_*.py"):
                path.write_text("def test_it():\n    pass\n")
        else:
            front = folder / task.sources[0] / "__init__.py"
            front.write_text(_AT_THE_FRONT[cheat] + front.read_text())
        yield folder


async def solves(sandbox: Sandbox, task: Task, sources: Path, wanted: frozenset[str]) -> bool:
    """Whether all tests pass that pass on the new release."""
    names, problem = await outcome(sandbox, task, sources)
    return not problem and bool(wanted) and wanted <= names
