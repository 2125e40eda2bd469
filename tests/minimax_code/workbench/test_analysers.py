"""Analysers over hostile files."""

from __future__ import annotations

import asyncio

import pytest

from minimax_code.errors import InputError
from minimax_code.workbench.analysers import DEFAULT_STANDARDS, Analysers
from minimax_code.workbench.files import CodeFile, check_files, path_problem
from minimax_code.workbench.findings import Findings, Issue

APP = """import os
import subprocess


def run(x: int) -> str:
    subprocess.call("ls " + str(x), shell=True)
    return x
"""


def analyse(*files: CodeFile, standards: tuple[str, ...] = DEFAULT_STANDARDS) -> Findings:
    check_files(files)
    return asyncio.run(Analysers().analyse(files, standards))


def rules(found: Findings) -> set[str]:
    return {issue.rule for issue in found.issues}


def test_facts_of_all_analysers_with_their_lines() -> None:
    found = analyse(CodeFile("src/app.py", APP))
    assert {"ruff:F401", "bandit:B602", "mypy:return-value"} <= rules(found)
    by_rule = {issue.rule: issue for issue in found.issues}
    assert [by_rule[rule].line for rule in ("ruff:F401", "bandit:B602", "mypy:return-value")] == [1, 6, 7]
    assert by_rule["ruff:F401"].suggestion == "Remove unused import: `os`"
    assert by_rule["bandit:B602"].severity == "high"
    assert {issue.file for issue in found.issues} == {"src/app.py"}
    assert [receipt.command[0] for receipt in found.receipts] == ["python", "ruff", "bandit", "mypy"]
    assert all("was run" in receipt.checked for receipt in found.receipts)


def test_standards_choose_what_is_looked_for() -> None:
    documented = analyse(CodeFile("app.py", APP), standards=("documentation",))
    assert "ruff:D103" in rules(documented)
    assert not any(rule.startswith(("bandit", "mypy")) for rule in rules(documented))
    assert "ruff:F401" in rules(analyse(CodeFile("app.py", APP), standards=()))


def test_files_that_look_like_tools_and_settings_are_only_files() -> None:
    found = analyse(
        CodeFile("app.py", APP),
        CodeFile("ruff.py", "raise SystemExit(99)\n"),
        CodeFile("mypy/__main__.py", "raise SystemExit(99)\n"),
        CodeFile("sitecustomize.py", "raise SystemExit(99)\n"),
        CodeFile("pyproject.toml", '[tool.ruff]\nlint.ignore = ["F401"]\n[tool.mypy]\nignore_errors = true\n'),
        CodeFile("mypy.ini", "[mypy]\nignore_errors = True\nplugins = evil\n"),
        CodeFile(".bandit", "[bandit]\nskips = B602\n"),
    )
    assert {"ruff:F401", "bandit:B602", "mypy:return-value"} <= rules(found)
    assert [receipt.exit_code for receipt in found.receipts] == [0, 1, 1, 1]


def test_what_doesnt_parse_is_said_and_the_rest_is_read() -> None:
    found = analyse(
        CodeFile("app.py", APP),
        CodeFile("bad.py", "x = 1\ndef f(:\n"),
        CodeFile("deep.py", "(" * 100_000),
        CodeFile("minus.py", "-" * 100_000 + "1"),
        CodeFile("bad.toml", "a = [\n"),
        CodeFile("bad.json", "{"),
        CodeFile("page.html", "<p>"),
    )
    assert found.broken == {"bad.py", "deep.py", "minus.py", "bad.toml", "bad.json"}
    assert ("bad.py", 2) in {(issue.file, issue.line) for issue in found.issues}
    assert found.quality_score == 0
    assert "ruff:F401" in rules(found)
    assert "1 of other kinds were not read" in found.receipts[0].checked


def test_nothing_is_known_of_what_nothing_reads() -> None:
    found = analyse(CodeFile("a.go", "package main\n"))
    assert (found.issues, found.quality_score) == ((), None)
    assert found.receipts[0].checked.startswith("nothing")


def test_the_score_is_points_by_lines() -> None:
    def score(num_lines: int, *severities: str) -> float | None:
        issues = tuple(
            Issue(severity=severity, file="a.py", line=1, message="", suggestion=None, rule="r")  # type: ignore[arg-type]
            for severity in severities
        )
        return Findings(issues=issues, receipts=(), num_lines=num_lines).quality_score

    assert score(50) == 100
    assert score(50, "low") == 98
    assert score(100, "high", "medium", "low") == 86
    assert score(2, "low") == score(20, "low") == 95
    assert score(20, "high", "high", "high") == 0


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../a.py", "a/../b.py", "a//b.py", "./a.py", "a/", "a\\b.py", "C:a.py", "a\0b", "a\nb.py",
     "x" * 201],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(path: str) -> None:
    assert path_problem(path)
    with pytest.raises(InputError, match=r"files\[0\].path"):
        check_files([CodeFile(path, "")])


def test_files_have_limits() -> None:
    for files in (
        [CodeFile(f"{i}.py", "") for i in range(201)],
        [CodeFile("a.py", "x" * (4 << 20)), CodeFile("b.py", "x")],
        [CodeFile("a.py", ""), CodeFile("A.py", "")],
        [CodeFile("a", ""), CodeFile("a/b.py", "")],
    ):
        with pytest.raises(InputError, match="files"):
            check_files(files)
