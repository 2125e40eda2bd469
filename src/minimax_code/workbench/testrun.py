"""Runs a project's tests in a sandbox and reads what became of each: pytest, unittest, node --test, go test.

For Python and Node the tests' outcomes come in sealed lines (inside/), so that what tests print is no outcome. What
runs in one process with the tests could still change their outcomes there; whoever judges a change by its tests lays
the tests and their settings anew first. Of go, whose binaries tell their own outcomes, it holds less.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from minimax_code.workbench.coverage import Coverage, FileLines
from minimax_code.workbench.files import source_paths
from minimax_code.workbench.inside import script
from minimax_code.workbench.receipt import Case, Receipt
from minimax_code.workbench.running import Limits
from minimax_code.workbench.sandbox import Sandbox

Suite = Literal["python", "node", "go"]
"""Tests that one runner runs; those of Python are pytest's, or unittest's where pytest isn't installed."""

PATTERNS: Mapping[Suite, tuple[str, ...]] = {
    "python": ("test_*.py", "*_test.py"),
    "node": tuple(f"{stem}.{kind}js" for stem in ("*.test", "*[-_]test", "test-*", "test") for kind in ("", "m", "c")),
    "go": ("*_test.go",),
}  # fmt: skip
"""Names of test files, by suite."""

_ENV = {
    "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "CI": "1",
    "GOCACHE": "/tmp/go-cache", "GOPROXY": "off", "GOFLAGS": "-count=1",
}  # fmt: skip
_NONE = "no tests were found"
_WORST = {"passed": 0, "skipped": 1, "failed": 2, "error": 3}
_BUILD_FAILED = re.compile(r"^FAIL\t(\S+) \[(.+)\]$")


@dataclass(frozen=True, kw_only=True)
class TestRun:
    """What became of tests.

    Attributes:
        cases: each test once; its worst outcome where its parts had several.
        problem: why the outcomes are not whole, or can't be believed; "" where they can.
        output: what was printed, without the sealed lines.
        lines: which lines ran, where that was asked for.
        unmeasured: why nothing is known of lines that were asked for, or "".
    """

    __test__ = False  # its name looks like a test to pytest

    suite: Suite
    cases: tuple[Case, ...]
    receipt: Receipt
    output: str
    problem: str = ""
    lines: Coverage = field(default_factory=dict)
    unmeasured: str = ""

    @property
    def passed(self) -> bool:
        """Whether all went well: something passed, nothing failed, and nothing is amiss."""
        outcomes = {case.outcome for case in self.cases}
        return not self.problem and "passed" in outcomes and not outcomes & {"failed", "error"}

    @property
    def passing(self) -> frozenset[str]:
        """Names of the cases that passed."""
        return frozenset(case.name for case in self.cases if case.outcome == "passed")

    @property
    def failures(self) -> tuple[Case, ...]:
        """Cases that failed or couldn't be run."""
        return tuple(case for case in self.cases if case.outcome in ("failed", "error"))

    @property
    def summary(self) -> str:
        """In a line, as "12 passed, 1 failed"."""
        counts = {outcome: sum(case.outcome == outcome for case in self.cases) for outcome in _WORST}
        told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) or "no tests"
        return f"{told}; {self.problem}" if self.problem else told


def suites_in(folder: Path) -> tuple[Suite, ...]:
    """Whose tests a folder has, by the names of its files."""
    found = {suite for path in source_paths(folder) for suite in PATTERNS if is_test(path, suite)}
    return tuple(suite for suite in PATTERNS if suite in found)


def is_test(path: str, suite: Suite | None = None) -> bool:
    """Whether a file is one of tests, by its name, or what tests share (conftest.py)."""
    name = path.rpartition("/")[2]
    if name == "conftest.py" and suite in ("python", None):
        return suite is None
    return any(fnmatch(name, pattern) for one in ([suite] if suite else PATTERNS) for pattern in PATTERNS[one])


async def run_tests(
    sandbox: Sandbox,
    folder: Path,
    suite: Suite,
    *,
    python: str,
    paths: Sequence[str] = (),
    covered: Sequence[str] = (),
    limits: Limits | None = None,
    tree: str | None = None,
    fail_fast: bool = False,
    env: Mapping[str, str] | None = None,
) -> TestRun:
    """Runs tests.

    Args:
        python: the interpreter that has what the project needs.
        paths: test files, or ids as pytest writes them; all where empty.
        covered: files whose lines are measured.
        fail_fast: whether to stop after the first that fails.
        env: what they find in the environment besides.

    Raises:
        SandboxError: the sandbox can't be started.
    """
    secret = secrets.token_hex(32).encode()
    command, shown = _command(suite, python, paths, covered, fail_fast)
    ran = await sandbox.run(
        command, folder=folder, limits=limits or Limits(), env={**_ENV, **(env or {})}, stdin=secret
    )
    read = _go_records(ran.output) if suite == "go" else _sealed_records(ran.output, secret)
    records, output = read
    cases = _merged(record for record in records if record["kind"] == "case")
    problem = _problem(records, cases, ran.exit_code, fail_fast)
    if problem.startswith(_NONE) and suite == "python":
        problem += _why_none(records, output, python)
    summary = ", ".join([f"{len(cases)} tests", *([problem] if problem else [])])
    receipt = Receipt(
        command=shown, tree=tree, exit_code=ran.exit_code, seconds=ran.seconds, sandbox=ran.sandbox,
        checked=summary, cases=cases,
    )  # fmt: skip
    reasons = [record["reason"] for record in records if record["kind"] == "unmeasured"]
    if covered and suite == "go":
        reasons = ["lines are measured for Python and Node alone"]
    return TestRun(
        suite=suite, cases=cases, receipt=receipt, output=output, problem=problem,
        lines=_lines(records), unmeasured="".join(reasons),
    )  # fmt: skip


def _command(
    suite: Suite, python: str, paths: Sequence[str], covered: Sequence[str], fail_fast: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The command, and the one that a person would write."""
    if suite == "python":
        args = (*(["-x"] if fail_fast else ()), *paths)
        sealed = ("-c", script("python_tests.py"), json.dumps(list(covered)))
        return (python, *sealed, *args), (python, "-m", "pytest", *args)
    if suite == "node":
        args = (*(["--experimental-test-coverage"] if covered else ()), *paths)
        reporter = f"--test-reporter=data:text/javascript,{quote(script('node_tests.mjs'))}"
        return ("node", "--test", reporter, *args), ("node", "--test", *args)
    command = ("go", "test", "-json", *(["-failfast"] if fail_fast else ()), *(go_packages(paths) or ["./..."]))
    return command, command


def go_packages(paths: Sequence[str]) -> list[str]:
    """The packages of files; what isn't a file is one already."""
    packages = {f"./{os.path.dirname(path)}" if path.endswith(".go") else path for path in paths}
    return sorted(package.rstrip("/") for package in packages)


def _sealed_records(output: str, secret: bytes) -> tuple[list[dict[str, Any]], str]:
    """The records that are sealed and in their order, and the rest of the output."""
    records: list[dict[str, Any]] = []
    rest: list[str] = []
    for line in output.split("\n"):
        seal, _, text = line[1:].partition(" ")
        right = line.startswith("\x1e") and hmac.compare_digest(
            hmac.new(secret, text.encode(), hashlib.sha256).hexdigest().encode(), seal.encode()
        )
        if right and json.loads(text)["seq"] == len(records):
            records.append(json.loads(text))
        else:
            rest.append(line)
    return records, "\n".join(rest).strip()


def _go_records(output: str) -> tuple[list[dict[str, Any]], str]:
    """Of `go test -json`; a package that can't be built is told in a line of text."""
    records: list[dict[str, Any]] = []
    said: dict[str, list[str]] = {}
    text: list[str] = []
    outcomes = {"pass": "passed", "fail": "failed", "skip": "skipped"}
    bad, section = False, ""
    for line in output.splitlines():
        try:
            event = json.loads(line)
            action, package = event["Action"], event["Package"]
        except (ValueError, KeyError, TypeError):
            text.append(line)
            if match := _BUILD_FAILED.match(line):
                records.append({"kind": "case", "name": match[1], "outcome": "error", "message": match[2]})
            elif line.startswith("# "):  # what the compiler says of a package stands below its name
                section = line[2:].split()[0]
            else:
                said.setdefault(section, []).append(f"{line}\n")
            continue
        name = "/".join([package, event["Test"]]) if "Test" in event else package
        if action == "output":
            said.setdefault(name, []).append(event["Output"])
            text.append(event["Output"].rstrip("\n"))
        elif action in outcomes and "Test" in event:
            message = "" if action == "pass" else "".join(said.get(name, ()))[-4000:]
            records.append({"kind": "case", "name": name, "outcome": outcomes[action], "message": message})
        elif action == "fail":
            bad = True
    for record in records:
        if record["outcome"] == "error":
            record["message"] = "".join([*said.get(record["name"], ()), record["message"]])[-4000:]
    bad = bad or any(record["outcome"] in ("failed", "error") for record in records)
    return [*records, {"kind": "end", "status": int(bad), "planned": None}], "\n".join(text)


def _merged(records: Iterable[Mapping[str, Any]]) -> tuple[Case, ...]:
    cases: dict[str, Case] = {}
    for record in records:
        case = Case(name=record["name"], outcome=record["outcome"], message=record["message"])
        if case.name not in cases or _WORST[case.outcome] > _WORST[cases[case.name].outcome]:
            cases[case.name] = case
    return tuple(cases.values())


def _problem(
    records: Sequence[Mapping[str, Any]], cases: Sequence[Case], exit_code: int | None, fail_fast: bool
) -> str:
    """Why outcomes can't be believed as they are, or ""."""
    if exit_code is None:
        return "it was ended for what it used"
    if not records or records[-1]["kind"] != "end":
        return f"it ended with {exit_code} before its tests did"
    end = records[-1]
    bad = any(case.outcome in ("failed", "error") for case in cases)
    if bool(exit_code) != bool(end["status"]) or (bad and not exit_code):
        return f"it ended with {exit_code}, which isn't what its tests say"
    if end["planned"] is not None and len(cases) < end["planned"] and not (fail_fast and bad):
        return f"{end['planned'] - len(cases)} of {end['planned']} tests were not run"
    if exit_code and not bad:
        return f"it ended with {exit_code}, and no test says why" if cases else f"{_NONE} (it ended with {exit_code})"
    return ""


def _why_none(records: Sequence[Mapping[str, Any]], output: str, python: str) -> str:
    """What there is to know of a Python that found no tests."""
    if records[-1].get("runner") == "unittest":
        return f" by unittest; {python} has no pytest"
    said = next((line for line in output.splitlines() if "error: " in line.lower() and "usage: " not in line), "")
    return f": {said[:300]}" if said else ""


def _lines(records: Sequence[Mapping[str, Any]]) -> dict[str, FileLines]:
    names: list[str] = next((record["names"] for record in records if record["kind"] == "tests"), [])
    return {
        record["file"]: FileLines(
            statements=frozenset(record["statements"]),
            missing=frozenset(record["missing"]),
            tests={
                int(line): frozenset(name for first, last in ranges for name in names[first : last + 1])
                for line, ranges in record["tests"].items()
            },
        )
        for record in records
        if record["kind"] == "lines"
    }
