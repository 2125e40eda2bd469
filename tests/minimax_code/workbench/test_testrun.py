"""Test runs: what becomes of each test, and what tests can't make of it."""

from __future__ import annotations

import asyncio
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest

from minimax_code.workbench.sandbox import find_sandbox
from minimax_code.workbench.testrun import Suite, TestRun, is_test, run_tests, suites_in

_QUICK = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
MIXED = """
import unittest

import pytest


def test_good() -> None:
    print("\\n\\x1e0000 {}")
    assert 1 + 1 == 2


def test_bad() -> None:
    x = [1, 2]
    assert x == [1, 3]


@pytest.mark.skip(reason="not today")
def test_skipped() -> None:
    raise AssertionError


@pytest.fixture
def broken():
    yield 1
    raise OSError("teardown")


def test_torn(broken) -> None:
    pass


class TestOld(unittest.TestCase):
    def test_parts(self) -> None:
        for i in range(3):
            with self.subTest(i=i):
                self.assertNotEqual(i, 1)
"""


def run(folder: Path, suite: Suite = "python", *, covered: Sequence[str] = (), fail_fast: bool = False) -> TestRun:
    ran = run_tests(
        find_sandbox(), folder, suite, python=sys.executable, covered=covered, fail_fast=fail_fast, env=_QUICK
    )
    return asyncio.run(ran)


def outcomes(ran: TestRun) -> dict[str, str]:
    return {case.name.rpartition("::")[2]: case.outcome for case in ran.cases}


def test_cases_of_pytest(tmp_path: Path) -> None:
    (tmp_path / "test_mixed.py").write_text(MIXED)
    (tmp_path / "test_import.py").write_text("import nowhere\n")
    ran = run(tmp_path)
    assert outcomes(ran)["test_import.py"] == "error"
    assert "nowhere" in ran.failures[0].message
    (tmp_path / "test_import.py").unlink()
    alone = run(tmp_path)
    assert outcomes(alone).items() <= outcomes(ran).items()  # what can't be read says nothing of the others
    ran = alone
    assert outcomes(ran) == {
        "test_good": "passed", "test_bad": "failed", "test_skipped": "skipped", "test_torn": "error",
        "test_parts": "failed",
    }  # fmt: skip
    assert (ran.passed, ran.problem, ran.receipt.exit_code, ran.receipt.sandbox) == (False, "", 1, find_sandbox().name)
    assert ran.summary == "1 passed, 1 skipped, 2 failed, 1 error"
    assert "assert [1, 2] == [1, 3]" in next(case.message for case in ran.cases if case.name.endswith("test_bad"))
    assert ran.receipt.command == (sys.executable, "-m", "pytest")
    assert outcomes(run(tmp_path, fail_fast=True)) == {"test_good": "passed", "test_bad": "failed"}


def test_what_passes_though_a_failure_was_expected_passes_as_pytest_says(tmp_path: Path) -> None:
    marks = "import pytest\n\n\n@pytest.mark.xfail(strict={})\ndef test_it() -> None:\n    assert {}\n"
    for strict, good, outcome in ((False, True, "passed"), (True, True, "failed"), (True, False, "skipped")):
        (tmp_path / "test_it.py").write_text(marks.format(strict, good))
        ran = run(tmp_path)
        assert outcomes(ran) == {"test_it": outcome}
        assert "isn't what its tests say" not in ran.problem


def test_the_projects_own_package_is_run_and_not_an_installed_one(tmp_path: Path) -> None:
    (tmp_path / "src" / "click").mkdir(parents=True)
    (tmp_path / "src" / "click" / "__init__.py").write_text("ours = True\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text("import click\n\n\ndef test_it() -> None:\n    assert click.ours\n")
    assert run(tmp_path).passed
    (tmp_path / "src" / "__init__.py").write_text("")  # a package named src, so click is the installed one
    assert not run(tmp_path).passed


@pytest.mark.parametrize(
    ("cheat", "told"),
    [
        ("import os\nos._exit(0)", "before its tests did"),
        ("import sys\nsys.exit(0)", "no tests"),
        ("import pytest\npytest.exit('bye', returncode=0)", "1 error"),
        ("import pytest\npytest.skip('all', allow_module_level=True)", "no tests"),
        ("def test_a():\n    import os\n    os._exit(0)", "before its tests did"),
        ("import pytest\ndef test_a():\n    pytest.exit('', returncode=0)\ndef test_b():\n    pass", "were not run"),
        ("import atexit, os\natexit.register(os._exit, 0)\ndef test_a():\n    assert 0", "1 failed"),
        ("def test_a():\n    import sys\n    assert not sys.stdin.read()\n    assert 0", "1 failed"),
    ],
)  # fmt: skip
def test_what_ends_early_or_runs_nothing_has_not_passed(tmp_path: Path, cheat: str, told: str) -> None:
    (tmp_path / "test_cheat.py").write_text(cheat + "\n")
    ran = run(tmp_path)
    assert not ran.passed
    assert told in f"{ran.summary}; {ran.problem}"


def test_lines_with_the_tests_that_ran_them(tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text("def sign(x):\n    if x > 0:\n        return 1\n    return -1\n")
    (tmp_path / "idle.py").write_text("x = 1\n")
    (tmp_path / "test_sums.py").write_text("import sums\ndef test_one():\n    assert sums.sign(3) == 1\n")
    ran = run(tmp_path, covered=["sums.py", "idle.py", "gone.py"])
    assert ran.passed
    assert set(ran.lines) == {"sums.py", "idle.py"}
    assert (ran.lines["sums.py"].statements, ran.lines["sums.py"].missing) == ({1, 2, 3, 4}, {4})
    assert ran.lines["sums.py"].tests[3] == {"test_sums.py::test_one"}
    assert ran.lines["idle.py"].missing == {1}
    assert (
        sorted(path.name for path in tmp_path.iterdir()) == ["idle.py", "sums.py", "test_sums.py"]
        or (tmp_path / ".pytest_cache").exists()
    )


def test_cases_of_node(tmp_path: Path) -> None:
    (tmp_path / "m.js").write_text("exports.f = (x) => {\n  if (x > 0) {\n    return 1;\n  }\n  return 2;\n};\n")
    (tmp_path / "a.test.js").write_text(
        "const test = require('node:test'); const assert = require('node:assert'); const {f} = require('./m.js');\n"
        "test('adds', () => assert.equal(f(1), 1));\n"
        "test('outer', async (t) => { await t.test('inner', () => assert.equal(1, 2)); });\n"
        "test('later', {skip: 'why'}, () => {});\n"
    )
    (tmp_path / "b.test.js").write_text("process.exit(0)\n")
    (tmp_path / "c.test.js").write_text("syntax error(\n")
    ran = run(tmp_path, "node", covered=["m.js"])
    assert {case.name: case.outcome for case in ran.cases} == {
        "a.test.js > adds": "passed", "a.test.js > outer": "failed", "a.test.js > outer > inner": "failed",
        "a.test.js > later": "skipped", "b.test.js": "skipped", "c.test.js": "error",
    }  # fmt: skip
    assert ran.problem == ""
    assert ran.lines["m.js"].missing == {5}
    assert ran.receipt.command == ("node", "--test", "--experimental-test-coverage")


GO = """\
{"Action":"run","Package":"example.com/sum","Test":"TestAdd"}
{"Action":"output","Package":"example.com/sum","Test":"TestAdd","Output":"=== RUN   TestAdd\\n"}
{"Action":"pass","Package":"example.com/sum","Test":"TestAdd","Elapsed":0}
{"Action":"run","Package":"example.com/sum","Test":"TestBad"}
{"Action":"output","Package":"example.com/sum","Test":"TestBad","Output":"    sum_test.go:11: no\\n"}
{"Action":"fail","Package":"example.com/sum","Test":"TestBad","Elapsed":0}
{"Action":"skip","Package":"example.com/sum","Test":"TestSkip","Elapsed":0}
{"Action":"fail","Package":"example.com/sum","Elapsed":0.005}
FAIL\texample.com/sum/broken [build failed]
# example.com/sum/broken [example.com/sum/broken.test]
broken/b.go:2:23: cannot use "x" (untyped string constant) as int value in return statement
"""


def test_cases_of_go_as_it_tells_them(tmp_path: Path) -> None:
    """What go 1.19 printed, told again by a program of its name."""
    (tmp_path / "told").write_text(GO)
    (tmp_path / "go").write_text("#!/bin/sh\ncat told\nexit 1\n")
    (tmp_path / "go").chmod(0o755)
    sandbox = find_sandbox()
    ran = asyncio.run(run_tests(sandbox, tmp_path, "go", python="", env={"PATH": f"{tmp_path}:/usr/bin:/bin"}))
    assert {case.name: case.outcome for case in ran.cases} == {
        "example.com/sum/TestAdd": "passed", "example.com/sum/TestBad": "failed",
        "example.com/sum/TestSkip": "skipped", "example.com/sum/broken": "error",
    }  # fmt: skip
    assert (ran.problem, ran.passed) == ("", False)
    assert "sum_test.go:11: no" in ran.cases[1].message
    assert "cannot use" in ran.output


def test_suites_are_known_by_their_files(tmp_path: Path) -> None:
    assert suites_in(tmp_path) == ()
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "a.test.js").write_text("")
    (tmp_path / "pkg").mkdir()
    for name in ("test_a.py", "a_test.go", "test.js"):
        (tmp_path / "pkg" / name).write_text("")
    assert suites_in(tmp_path) == ("python", "node", "go")
    assert [is_test(path) for path in ("a/conftest.py", "a/test_b.py", "a/b.py", "testing.py")] == [
        True,
        True,
        False,
        False,
    ]


def test_why_nothing_was_run(tmp_path: Path) -> None:
    """Settings for a plugin that isn't there stop many a project's tests."""
    (tmp_path / "test_one.py").write_text("def test_one():\n    pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --cov-nothing=x\n")
    ran = run(tmp_path)
    assert ran.problem.startswith("no tests were found (it ended with 4): ")
    assert "unrecognized arguments: --cov-nothing=x" in ran.problem
    assert "unrecognized arguments: --cov-nothing=x" in ran.receipt.checked


def test_a_python_without_pytest_is_named(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", symlinks=True)
    python = str(tmp_path / "bare" / "bin" / "python")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_one.py").write_text("def test_one():\n    pass\n")
    sandbox = find_sandbox(python=python)
    ran = asyncio.run(run_tests(sandbox, tmp_path / "tests", "python", python=python, env=_QUICK))
    assert ran.problem.endswith(f"by unittest; {python} has no pytest"), ran.problem


def test_packages_in_src_need_no_installation(tmp_path: Path) -> None:
    (tmp_path / "src" / "shop").mkdir(parents=True)
    (tmp_path / "src" / "shop" / "__init__.py").write_text("PRICE = 2\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_shop.py").write_text(
        "import subprocess, sys\n\nimport shop\n\n\ndef test_shop():\n    assert shop.PRICE == 2\n"
        "    subprocess.run([sys.executable, '-c', 'import shop'], cwd='/tmp', check=True)\n"
    )
    (tmp_path / "src" / "sitecustomize.py").write_text("import sys\nsys.stdin.buffer.read()\n")
    assert outcomes(run(tmp_path)) == {"test_shop": "passed"}, "the runner had its secret before"
