"""Finds tasks for the benchmark of code, and proves each before it proposes it.

    python -m benchmarks.code_find releases PACKAGE... [--pairs 8] [--python /usr/bin/python3.12] --out FILE
    python -m benchmarks.code_find mutants [--each 5] [--seed 1] --out FILE

`releases` takes neighbouring releases of packages and runs the tests of the newer one on the sources of both;
`mutants` changes lines of the releases that are in the recipes. What is proposed fails some tests, each by itself and
not because a file of tests can't be imported, and mends them with nothing else lost, in several runs with other hash
seeds, and with another Python too. Where a statement is needed, a person writes it. Nothing of a package is run outside
the sandbox.
"""

from __future__ import annotations

import argparse
import asyncio
import email
import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename
from packaging.version import Version

from benchmarks.code_cache import Archive, Cache, files_of
from benchmarks.code_tasks import RECIPES, Suite, passed, read, run_suite, suite_of
from minimax_code.workbench.mutate import Mutant, mutants_of
from minimax_code.workbench.sandbox import Sandbox, find_sandbox
from minimax_code.workbench.testrun import TestRun

_SEEDS = (0, 1, 2)
_MOST_FAILING, _MOST_LINES = 30, 300  # tests to mend, and changed lines: beyond that it isn't one thing to mend
_NO_PACKAGES = {"tests", "test", "testing", "docs", "doc", "examples", "benchmarks", "tools", "scripts"}
_MOST_BYTES = 1_500_000  # of an archive
_LONGEST = 700  # lines of a file that is mutated, so that small models can read it


class Refused(Exception):
    """Why something is no task."""


class Prover:
    """Runs tests often enough to know which of them tell two trees apart."""

    def __init__(self, sandbox: Sandbox, pythons: Sequence[str], seconds: float) -> None:
        self._sandbox, self._seconds = sandbox, seconds
        self._runs = [*((pythons[0], seed) for seed in _SEEDS), *((python, 0) for python in pythons[1:])]
        self._references: dict[tuple[Path, str, str, int], TestRun] = {}

    async def prove(self, suite: Suite, old: Path) -> tuple[list[str], int]:
        """Tests that fail with other sources than the release's own, and how many pass with both.

        Raises:
            Refused: there are none or too many, they aren't always the same, or a file of tests can't be imported.
        """
        failing: frozenset[str] | None = None
        both: dict[str, frozenset[str]] = {}
        for python, seed in self._runs:
            new = await self._reference(suite, python, seed)
            run = await run_suite(self._sandbox, suite, old, python=python, seed=seed, seconds=self._seconds)
            if run.problem:
                raise Refused(f"old: {run.summary}")
            if lost := passed(run) - passed(new):
                raise Refused(f"pass before alone: {sorted(lost)[:3]}")
            found = passed(new) - passed(run)
            if not 0 < len(found) <= _MOST_FAILING:
                raise Refused(f"{len(found)} tests differ")
            ended = {case.name: case.outcome for case in run.cases}
            if unrun := [name for name in found if ended.get(name) not in ("failed", "error")]:
                raise Refused(f"not run: {sorted(unrun)[:2]}")
            kept = passed(new) & passed(run)
            if failing not in (None, found) or both.setdefault(python, kept) != kept:
                raise Refused("they don't always end alike")
            failing = found
        assert failing is not None
        alone = await run_suite(self._sandbox, suite, suite.new, ids=sorted(failing), seconds=self._seconds)
        if not failing <= passed(alone):
            raise Refused("they pass only together with others")
        return sorted(failing), min(map(len, both.values()))

    async def unread(self, suite: Suite, old: Path) -> list[str]:
        """Files of tests that can't be imported with either tree: they need what is missing, or what is yet to come."""
        found: list[str] = []
        for tree in (suite.new, old):
            run = await run_suite(self._sandbox, suite, tree, seconds=self._seconds)
            found += [case.name for case in run.cases if case.outcome == "error" and case.name.endswith(".py")]
        return sorted(set(found))

    async def _reference(self, suite: Suite, python: str, seed: int) -> TestRun:
        """A run of a release's own sources."""
        key = suite.new, suite.options, python, seed
        if key in self._references:
            return self._references[key]
        run = await run_suite(self._sandbox, suite, suite.new, python=python, seed=seed, seconds=self._seconds)
        if run.problem or not passed(run):
            raise Refused(f"its own tests: {run.summary} {run.output[-200:]!r}")
        if len(run.failures) > len(run.cases) // 10:
            raise Refused(f"its own tests: {run.summary}, {run.failures[0].name}: {run.failures[0].message[-200:]}")
        self._references[key] = run
        return run


async def of_package(
    project: str, cache: Cache, prover: Prover, pairs: int, extra: Sequence[str]
) -> AsyncIterator[dict[str, Any]]:
    """Recipes of neighbouring releases, the newest first; each still without a statement."""
    names = [name for name in files_of(project) if name.endswith(".tar.gz") and _version(project, name)]
    names.sort(key=lambda name: _version(project, name) or Version("0"), reverse=True)
    releases = [archive for name in names[: pairs + 1] if (archive := cache.add(project, name, _MOST_BYTES))]
    for new, old in pairwise(releases):
        version = _version(project, new.file)
        try:
            recipe = await _pair(new, old, cache, prover, extra)
        except Refused as why:
            print(f"{project} {version}: {why}", flush=True)
            continue
        print(f"{project} {version}: TASK, {len(recipe['failing'])} to mend", flush=True)
        yield {"name": f"{project}-{version}", **recipe}


async def _pair(new: Archive, old: Archive, cache: Cache, prover: Prover, extra: Sequence[str]) -> dict[str, Any]:
    tree, before = cache.tree(new), cache.tree(old)
    sources, tests, data = layout(tree, new.project)
    if not sources or not tests:
        raise Refused(f"sources {sources}, tests {tests}")
    if missing := [path for path in sources if not (before / path).exists()]:
        raise Refused(f"the older release has no {missing}")
    lines = sum(_changed_lines(before / path, tree / path) for path in sources)
    if not 0 < lines <= _MOST_LINES:
        raise Refused(f"{lines} lines of sources differ")
    recipe = {
        "statement": "", "lines": lines, "old": vars(old), "new": vars(new),
        "needs": [vars(one) for one in needs(tree, extra, cache)],
        "sources": sources, "tests": tests, "data": data, "options": "",
    }  # fmt: skip
    recipe["options"] = " ".join(f"--ignore={path}" for path in await prover.unread(suite_of(recipe, cache), before))
    failing, passing = await prover.prove(suite_of(recipe, cache), before)
    return {**recipe, "failing": failing, "passing": passing}


def layout(tree: Path, project: str) -> tuple[list[str], list[str], list[str]]:
    """Sources, tests and what these need besides, by the usual names."""
    root = tree / "src" if (tree / "src").is_dir() else tree
    module = root / f"{canonicalize_name(project).replace('-', '_')}.py"
    packages = [path.parent for path in sorted(root.glob("*/__init__.py")) if path.parent.name not in _NO_PACKAGES]
    sources = [*packages, *([module] if module.exists() else [])]
    places = [folder / name for folder in (tree, *sources) for name in ("tests", "test", "testing")]
    tests = [path for path in places if any(path.rglob("*test*.py"))][:1]
    tests = tests or sorted(path for path in tree.glob("test*.py") if path != module)
    data = [*tree.glob("conftest.py"), *root.glob("*.egg-info"), *tree.glob("README*")]

    def named(paths: list[Path]) -> list[str]:
        return [str(path.relative_to(tree)) for path in paths]

    return named(sources), named(tests), named(data)


def needs(tree: Path, extra: Sequence[str], cache: Cache) -> list[Archive]:
    """Wheels of what a release requires, and of what its tests do, each the newest that is of pure Python."""
    told = tree / "PKG-INFO"
    asked = [*_requires(told.read_text(encoding="utf-8", errors="replace")), *map(Requirement, extra)]
    found: dict[str, Archive] = {}
    while asked:
        one = asked.pop()
        name = canonicalize_name(one.name)
        if name in found or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        found[name], metadata = _wheel(name, one.specifier, cache)
        asked += _requires(metadata)
    return list(found.values())


def _wheel(name: str, wanted: SpecifierSet, cache: Cache) -> tuple[Archive, str]:
    files = [file for file in files_of(name) if file.endswith("-none-any.whl") and "py3" in file]
    files.sort(key=lambda file: parse_wheel_filename(file)[1], reverse=True)
    for file in files:
        version = parse_wheel_filename(file)[1]
        if version.is_prerelease or version not in wanted:
            continue
        archive = cache.add(name, file, _MOST_BYTES)
        if archive is None:
            break
        (told,) = cache.tree(archive).glob("*.dist-info/METADATA")
        metadata = told.read_text(encoding="utf-8", errors="replace")
        if Version("3.11") in SpecifierSet(email.message_from_string(metadata)["Requires-Python"] or ""):
            return archive, metadata
    raise Refused(f"it needs {name}, of which no wheel is of pure Python and small")


def _requires(metadata: str) -> list[Requirement]:
    return [Requirement(one) for one in email.message_from_string(metadata).get_all("Requires-Dist") or []]


def _version(project: str, name: str) -> Version | None:
    try:
        of, version = parse_sdist_filename(name)
    except ValueError:
        return None
    return None if of != canonicalize_name(project) or version.is_prerelease else version


def _changed_lines(old: Path, new: Path) -> int:
    command = ["git", "diff", "--no-index", "--numstat", "--", str(old), str(new)]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    rows = [line.split("\t") for line in told.splitlines()]
    of_tests = re.compile(r"/tests?/|/test_|\.egg-info/")
    return sum(int(row[0]) + int(row[1]) for row in rows if row[2].endswith(".py") and not of_tests.search(row[2]))


async def of_mutants(
    base: dict[str, Any], cache: Cache, prover: Prover, each: int, chance: random.Random
) -> AsyncIterator[dict[str, Any]]:
    """Recipes of mutants that a release's own tests notice."""
    suite = suite_of(base, cache)
    number = 0
    for path, mutant in _tries(suite, chance, 6 * each):
        with tempfile.TemporaryDirectory(prefix="openm3-code-") as name:
            tree = Path(name, "tree")
            shutil.copytree(suite.new, tree)
            (tree / path).write_bytes(mutant.source)
            try:
                failing, passing = await prover.prove(suite, tree)
            except Refused as why:
                print(f"{base['name']} {path}:{mutant.line}: {why}", flush=True)
                continue
        print(f"{base['name']} {path}:{mutant.line} {mutant.change}: {len(failing)} notice", flush=True)
        number += 1
        yield {
            "name": f"{suite.package}-{number}", "of": base["name"], "path": path, "line": mutant.line,
            "change": mutant.change, "sha256": hashlib.sha256(mutant.source).hexdigest(),
            "failing": failing, "passing": passing,
        }  # fmt: skip
        if number == each:
            break


def _tries(suite: Suite, chance: random.Random, most: int) -> Iterator[tuple[str, Mutant]]:
    """Mutants of functions in files that aren't long, each of another line."""
    lines: dict[tuple[str, int], list[Mutant]] = {}
    for path in _modules(suite):
        source = (suite.new / path).read_bytes()
        if source.count(b"\n") <= _LONGEST:
            for mutant in mutants_of(path, source):
                if source.splitlines()[mutant.line - 1].startswith((b" ", b"\t")):
                    lines.setdefault((path, mutant.line), []).append(mutant)
    for path, line in chance.sample(sorted(lines), min(most, len(lines))):
        yield path, chance.choice(lines[path, line])


def _modules(suite: Suite) -> list[str]:
    found: list[Path] = []
    for source in suite.sources:
        path = suite.new / source
        found += [path] if path.is_file() else sorted(path.rglob("*.py"))
    names = (str(path.relative_to(suite.new)) for path in found)
    return [name for name in names if not any(name.startswith(f"{one}/") for one in suite.tests)]


async def run(arguments: argparse.Namespace) -> None:
    """Adds to the file what is found, as it is."""
    pythons = [sys.executable, *arguments.python]
    with Cache(arguments.cache) as cache:
        own = [Path(said) for python in arguments.python for said in _prefixes(python)]
        prover = Prover(find_sandbox(readable=[cache.needs, *own]), pythons, arguments.seconds)
        if arguments.what == "releases":
            for project in arguments.packages:
                async for found in of_package(project, cache, prover, arguments.pairs, arguments.needs):
                    _append(arguments.out, found)
            return
        of_packages = {recipe["new"]["project"]: recipe for recipe in read(RECIPES)}
        for project in arguments.packages or sorted(of_packages):
            chance = random.Random(f"{arguments.seed} {project}")
            async for found in of_mutants(of_packages[project], cache, prover, arguments.each, chance):
                _append(arguments.out, found)


def _prefixes(python: str) -> list[str]:
    asked = [python, "-c", "import sys; print(sys.prefix); print(sys.base_prefix)"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()


def _append(path: Path, found: dict[str, Any]) -> None:
    path.write_text(json.dumps([*read(path), found], indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """As above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("releases", "mutants"))
    parser.add_argument("packages", nargs="*", help="of mutants all of the recipes by default")
    parser.add_argument("--out", type=Path, required=True, help="file to which recipes are added")
    parser.add_argument("--cache", type=Path, help="as of benchmarks.code")
    parser.add_argument("--python", nargs="*", default=[], help="further interpreters that have pytest")
    parser.add_argument("--needs", nargs="*", default=[], help="what the tests need besides, as requirements")
    parser.add_argument("--pairs", type=int, default=8, help="of releases, from each package")
    parser.add_argument("--each", type=int, default=5, help="mutants, of each package")
    parser.add_argument("--seconds", type=float, default=20, help="that a release's tests may take")
    parser.add_argument("--seed", type=int, default=1)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
