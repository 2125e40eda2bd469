"""Reviews of pull requests with a seeded bug, and of clean ones: recall, precision, and comments on what is clean.

    python -m benchmarks.review [--sdists DIR] [--seeded 8] [--clean 4] [--seed 1] [--base-url URL [--forced]]

A pull request is made of a released package with its own tests: two functions are edited without changing what they
do (a local variable gets another name), and in a seeded one a line of the same file is changed by one small mutation,
drawn from all lines, tested or not. Found: a comment stands within three lines of the mutation. Precision: comments
that do, of all comments, those on clean ones too. Recall depends on the packages' own tests, so it is told apart for
lines that they run, and by kind of mutation; each with its interval of 95%. With --base-url a model reads the changes
as its calibration says, and with --forced as if it could judge.

The gate: the tests of every package run as they are, and nearly all pass; those that don't count for neither side. The
recipes name versions and hashes; pip fetches the sdists.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import hashlib
import random
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.code_model import interval
from benchmarks.machine import describe, save
from minimax_code.remote import ServerModel
from minimax_code.review.repository import Repository
from minimax_code.review.result import Review
from minimax_code.review.reviewer import review_commits
from minimax_code.skills.calibration import Calibration
from minimax_code.skills.effort import Effort
from minimax_code.workbench.mutate import Mutant, mutants_of
from minimax_code.workbench.sandbox import find_sandbox
from minimax_code.workbench.testrun import run_tests

CONFIG = {"standards": ["security", "types", "performance"]}


@dataclass(frozen=True, kw_only=True)
class Package:
    """A released package: where its code and its tests lie in the sdist."""

    name: str
    version: str
    sha256: str
    code: str
    tests: str


PACKAGES = (
    Package(
        name="semver",
        version="3.0.4",
        sha256="afc7d8c584a5ed0a11033af086e8af226a9c0b206f313e0301f8dd7b6b589602",
        code="src/semver",
        tests="tests",
    ),
    Package(
        name="wcwidth",
        version="0.2.13",
        sha256="72ea0c06399eb286d978fdedb6923a9eb47e1c486ce63e9b4e64fc18303972b5",
        code="wcwidth",
        tests="tests",
    ),
    Package(
        name="tabulate",
        version="0.9.0",
        sha256="0095b12bf5966de529c0feb1fa08671671b3368eec77d7ef7ab114be2c068b3c",
        code="tabulate",
        tests="test",
    ),
    Package(
        name="sqlparse",
        version="0.5.2",
        sha256="9e37b35e16d1cc652a2545f0997c1deb23ea28fa1f3eefe609eee3063c3b105f",
        code="sqlparse",
        tests="tests",
    ),
    Package(
        name="itsdangerous",
        version="2.1.2",
        sha256="5dbbc68b317e5e42f327f9021763545dc3fc3bfe22e6deb96aaf1fc38874156a",
        code="src/itsdangerous",
        tests="tests",
    ),
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sdists", type=Path, default=Path.home() / ".cache" / "openm3-sdists")
    options.add_argument("--seeded", type=int, default=8, help="pull requests with a bug, of each package")
    options.add_argument("--clean", type=int, default=4, help="clean ones")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--package", action="append", help="of this name alone")
    options.add_argument("--base-url", help="of a model's server")
    options.add_argument("--forced", action="store_true", help="take the model for one that can judge")
    asked = options.parse_args()
    reader = Reader(base_url=asked.base_url, forced=asked.forced)
    rows: list[dict[str, Any]] = []
    for package in [one for one in PACKAGES if not asked.package or one.name in asked.package]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name, package.name)
            lay(package, asked.sdists, folder)
            gate(folder)
            base = commit(folder, "base")
            for number in range(asked.seeded + asked.clean):
                chance = random.Random(f"{asked.seed} {package.name} {number}")
                row = one(package, folder, base, chance, reader, seeded=number < asked.seeded)
                print(row, flush=True)
                rows.append(row)
    report = {"machine": describe(), "model": reader.name, "summary": summary(rows), "rows": rows}
    save("review", report, table(report))


@dataclass(frozen=True, kw_only=True)
class Reader:
    """The model that reads the changes, or none."""

    base_url: str | None
    forced: bool

    @property
    def name(self) -> str:
        """As the report has it."""
        return f"{self.base_url}{', forced' if self.forced else ''}" if self.base_url else "none"

    async def review(self, folder: Path, base: str, head: str) -> Review:
        """The review of a change."""
        model = ServerModel(self.base_url) if self.base_url else None
        effort = Effort(calibration=Calibration(model="forced", judges=True)) if model and self.forced else None
        try:
            return await review_commits(Repository(folder), base, head, CONFIG, model=model, effort=effort)
        finally:
            if model:
                await model.close()


def lay(package: Package, sdists: Path, folder: Path) -> None:
    """Code and tests of a package, without its settings."""
    sdists.mkdir(parents=True, exist_ok=True)
    path = sdists / f"{package.name}-{package.version}.tar.gz"
    if not path.exists():
        wanted = f"{package.name}=={package.version}"
        fetch = ["download", "-q", "--no-deps", "--no-binary", ":all:", "--dest", str(sdists), wanted]
        subprocess.run([sys.executable, "-m", "pip", *fetch], check=True)
    if hashlib.sha256(path.read_bytes()).hexdigest() != package.sha256:
        raise SystemExit(f"{path} is not the sdist that the recipe names")
    with tempfile.TemporaryDirectory() as name, tarfile.open(path) as archive:
        archive.extractall(name, filter="data")
        source = Path(name, f"{package.name}-{package.version}")
        shutil.copytree(source / package.code, folder / package.name)
        shutil.copytree(source / package.tests, folder / "tests")


def gate(folder: Path) -> None:
    """The tests run as they are, and nearly all pass: one may look for the package where it isn't installed."""
    ran = asyncio.run(run_tests(find_sandbox(), folder, "python", python=sys.executable))
    if ran.problem or len(ran.failures) > len(ran.cases) // 20:
        raise SystemExit(f"{folder.name}: the tests don't pass as they are: {ran.summary}\n{ran.output[-2000:]}")


def commit(folder: Path, message: str) -> str:
    """Commits everything, and says which commit it is."""
    if not (folder / ".git").exists():
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    git = ["git", "-c", "user.name=b", "-c", "user.email=b@example.com"]
    subprocess.run([*git, "add", "-A"], cwd=folder, check=True)
    subprocess.run([*git, "commit", "-q", "-m", message], cwd=folder, check=True)
    done = subprocess.run([*git, "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def one(
    package: Package, folder: Path, base: str, chance: random.Random, reader: Reader, *, seeded: bool
) -> dict[str, Any]:
    """Makes a pull request and reviews it."""
    files = sorted((folder / package.name).rglob("*.py"))
    path = chance.choice([path for path in files if len(list(renamings(path))) > 2])
    source = path.read_text()
    bug: Mutant | None = None
    changed = source
    if seeded:
        found = [one for one in mutants_of(path.name, source.encode()) if in_function(source, one.line)]
        bug = chance.choice(found)
        changed = bug.source.decode()
    for old, new in chance.sample(list(renamings(path)), 2):
        lines = changed.splitlines(keepends=True)
        first, last, name = old
        if bug and first <= bug.line <= last:
            continue
        lines[first - 1 : last] = [re.sub(rf"(?<![\w.]){name}\b", new, line) for line in lines[first - 1 : last]]
        changed = "".join(lines)
    path.write_text(changed)
    head = commit(folder, "head")
    began = time.perf_counter()
    review = asyncio.run(reader.review(folder, base, head))
    seconds = time.perf_counter() - began
    subprocess.run(["git", "reset", "-q", "--hard", base], cwd=folder, check=True)
    name = str(path.relative_to(folder))
    hits = [one for one in review.comments if bug and one.path == name and abs(one.line - bug.line) <= 3]
    return {
        "package": package.name, "file": name, "line": bug.line if bug else None, "change": bug.change if bug else None,
        "kind": kind_of(bug.change) if bug else None,
        "tested": tested(review, name, bug) if bug else None, "found": bool(hits), "comments": len(review.comments),
        "hits": len(hits), "rules": [issue.rule for issue in review.issues], "seconds": round(seconds, 1),
    }  # fmt: skip


def kind_of(change: str) -> str:
    """Of a mutation, in words."""
    old, _, new = change.partition(" became ")
    if new.startswith("`not (") or new == "nothing":
        return "condition"
    if new == "`None`":
        return "returned value"
    if old.strip("`").isdigit():
        return "number"
    return "constant" if old.strip("`") in ("True", "False") else "operator"


Place = tuple[int, int, str]


def renamings(path: Path) -> Iterator[tuple[Place, str]]:
    """Functions with a local variable that can get another name: first line, last line, name, and the new name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef):
            continue
        inner = list(ast.walk(node))
        if any(isinstance(one, ast.FunctionDef | ast.Lambda | ast.Global | ast.Nonlocal) for one in inner[1:]):
            continue
        texts = " ".join(one.value for one in inner if isinstance(one, ast.Constant) and isinstance(one.value, str))
        keywords = {one.arg for one in inner if isinstance(one, ast.keyword | ast.arg)}
        stored = {one.id for one in inner if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
        for name in sorted(stored - keywords):
            if len(name) > 2 and not re.search(rf"\b{name}\b", texts):
                yield (node.lineno, node.end_lineno or node.lineno, name), f"the_{name}"
                break


def in_function(source: str, line: int) -> bool:
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))
    return any(node.body[0].lineno <= line <= (node.end_lineno or 0) for node in nodes)


def tested(review: Review, path: str, bug: Mutant) -> bool:
    """Whether a test runs the line of the bug."""
    return bug.line not in review.uncovered.get(path, ())


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    seeded = [row for row in rows if row["line"]]
    clean = [row for row in rows if not row["line"]]
    run = [row for row in seeded if row["tested"]]
    comments = sum(row["comments"] for row in rows)
    return {
        "found": rate(seeded), "found of tested": rate(run),
        **{f"found: {kind}": rate([row for row in seeded if row["kind"] == kind])
           for kind in sorted({row["kind"] for row in seeded})},
        **{f"found in {name}": rate([row for row in seeded if row["package"] == name])
           for name in dict.fromkeys(row["package"] for row in rows)},
        "comments": comments, "precision": round(sum(row["hits"] for row in rows) / comments, 3) if comments else None,
        "clean": len(clean), "comments on clean ones": sum(row["comments"] for row in clean),
        "most comments on a clean one": max((row["comments"] for row in clean), default=0),
        "seconds": statistics.median(row["seconds"] for row in rows),
    }  # fmt: skip


def rate(rows: list[dict[str, Any]]) -> str:
    """How many were found, and the interval of 95%."""
    if not rows:
        return "of none"
    found = sum(row["found"] for row in rows)
    low, high = interval(found, len(rows))
    return f"{found} of {len(rows)} ({low:.0%} to {high:.0%})"


def table(report: dict[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in report["summary"].items())])


if __name__ == "__main__":
    main()
