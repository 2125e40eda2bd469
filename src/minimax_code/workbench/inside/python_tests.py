"""Runs pytest, or unittest where pytest isn't installed, and tells of each test in lines that tests can't write.

Its text is given to `python -c`, with a secret on stdin. Each line carries a keyed hash over the secret, its number and
its text, and the last one says how many there were: what tests print, leave out or cut short doesn't add up.
Usage: python -c TEXT COVERED ARGUMENT...; COVERED is a JSON list of the files whose lines are measured.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
import json
import os
import sys
import unittest
from collections.abc import Callable
from typing import Any

Tell = Callable[[dict[str, Any]], None]


def sealed() -> Tell:
    """Tells records on the stdout that this process was started with; the secret lives in a closure alone."""
    secret, out, write, new, dumps = sys.stdin.buffer.read(), os.dup(1), os.write, hmac.new, json.dumps
    os.set_inheritable(out, False)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    told = 0

    def tell(record: dict[str, Any]) -> None:
        nonlocal told
        text = dumps({**record, "seq": told}).encode()
        line = b"\n\x1e" + new(secret, text, hashlib.sha256).hexdigest().encode() + b" " + text + b"\n"
        while line:
            line = line[write(out, line) :]
        told += 1

    return tell


class Lines:
    """Which lines of some files run, and which tests ran them."""

    def __init__(self, files: list[str], tell: Tell) -> None:
        self._files, self._tell = [os.path.abspath(file) for file in files if file.endswith(".py")], tell
        self._coverage: Any = None
        self._numbers: dict[str, int] = {}
        if not self._files:
            return
        try:
            import coverage
        except ImportError:
            tell({"kind": "unmeasured", "reason": f"coverage is not installed in {sys.executable}"})
            return
        self._coverage = coverage.Coverage(data_file=None, config_file=False, include=self._files)
        self._coverage._warn_no_data = False  # then no test has run a line, which is told
        self._coverage.start()

    def begin(self, test: str) -> None:
        """What runs from here on, runs for this test."""
        if self._coverage is not None:
            self._numbers.setdefault(test, len(self._numbers))
            self._coverage.switch_context(test)

    def report(self) -> None:
        """Tells of each file which lines can run, and by which tests they did, as ranges of their numbers."""
        if self._coverage is None:
            return
        self._coverage.stop()
        data = self._coverage.get_data()
        for path in self._files:
            try:
                _, statements, _, missing, _ = self._coverage.analysis2(path)
            except Exception:  # not there, or not Python: nothing is known of it
                continue
            runs = {
                line: ranges(sorted(self._numbers[test] for test in tests if test))
                for line, tests in data.contexts_by_lineno(path).items()
            }
            file = {"file": os.path.relpath(path), "statements": statements, "missing": missing}
            self._tell({"kind": "lines", **file, "tests": runs})
        self._tell({"kind": "tests", "names": list(self._numbers)})


def ranges(numbers: list[int]) -> list[list[int]]:
    """Of 3, 4, 5, 9 the ends: 3, 5 and 9, 9. Thousands of tests run a line, mostly one after another."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


class PytestCases:
    """A plugin of pytest."""

    def __init__(self, tell: Tell, lines: Lines) -> None:
        self._tell, self._lines = tell, lines
        self._outcomes: dict[str, str] = {}
        self.collected = 0

    def pytest_collection_finish(self, session: Any) -> None:
        self.collected = len(session.items)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self._case(report.nodeid or "collection", "error", report)

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        self._lines.begin(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A test is told of once: when its call ended, or when something around it went wrong."""
        if report.when == "call" or report.skipped:
            outcome = "skipped" if report.skipped else "passed" if report.passed else "failed"
            self._case(report.nodeid, outcome, report)
        elif report.failed:
            self._case(report.nodeid, "error", report)

    def _case(self, name: str, outcome: str, report: Any) -> None:
        text = "" if outcome == "passed" else str(getattr(report, "longreprtext", "") or report.longrepr or "")
        self._tell({"kind": "case", "name": name, "outcome": outcome, "message": text[-4000:]})


class UnittestCases(unittest.TextTestResult):
    """A result of unittest that tells of each test as it ends."""

    tell: Tell
    lines: Lines

    def startTest(self, test: unittest.TestCase) -> None:
        self._outcome, self._message = "passed", ""
        self.lines.begin(test.id())
        super().startTest(test)

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self.tell({"kind": "case", "name": test.id(), "outcome": self._outcome, "message": self._message[-4000:]})

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._outcome, self._message = "failed", self.failures[-1][1]

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        if type(test).__name__ == "_ErrorHolder":  # of a module or a class: there is no test to tell of
            self.tell({"kind": "case", "name": test.id(), "outcome": "error", "message": self.errors[-1][1][-4000:]})
        else:
            self._outcome, self._message = "error", self.errors[-1][1]

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            wrong = self.failures if issubclass(err[0], test.failureException) else self.errors
            self._outcome, self._message = "failed", wrong[-1][1]

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._outcome, self._message = "skipped", reason

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self._outcome = "skipped"

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        super().addUnexpectedSuccess(test)
        self._outcome, self._message = "failed", "it passed, and was expected to fail"


class CountingRunner(unittest.TextTestRunner):
    """A runner of unittest that knows how many tests there are."""

    planned = 0

    def run(self, test: Any) -> Any:
        self.planned = test.countTestCases()
        return super().run(test)


def run_pytest(tell: Tell, lines: Lines, args: list[str]) -> tuple[int, int]:
    """Exit status, and how many tests there are."""
    import pytest

    plugin = PytestCases(tell, lines)
    # A file that can't be read is told of; it says nothing of what is in the others.
    status = pytest.main(["--continue-on-collection-errors", *args], plugins=[plugin])
    return int(status), plugin.collected


def run_unittest(tell: Tell, lines: Lines, args: list[str]) -> tuple[int, int]:
    """Exit status, and how many tests there are."""
    UnittestCases.tell, UnittestCases.lines = staticmethod(tell), lines
    results: Any = UnittestCases
    runner = CountingRunner(stream=sys.stdout, resultclass=results, failfast="-x" in args)
    names = [arg[:-3].replace("/", ".") if arg.endswith(".py") else arg for arg in args if arg != "-x"]
    ran = unittest.main(module=None, argv=["unittest", *names], testRunner=runner, exit=False).result
    return int(not ran.wasSuccessful() or not runner.planned), runner.planned


def find_sources() -> None:
    """A project's own packages come before what is installed under their names.

    Not as a variable that Python has from the start: then a `sitecustomize.py` among them would run before us.
    """
    if os.path.isdir("src") and not os.path.exists("src/__init__.py"):
        sys.path.insert(1, os.path.abspath("src"))
        others = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[1], *([others] if others else [])])


def main() -> None:
    """Runs the tests; the exit status is theirs."""
    tell = sealed()
    find_sources()
    covered, *args = sys.argv[1:]
    lines = Lines(json.loads(covered), tell)
    run = run_pytest if importlib.util.find_spec("pytest") else run_unittest
    status, planned = run(tell, lines, args)
    lines.report()
    tell({"kind": "end", "status": status, "planned": planned, "runner": run.__name__[4:]})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # what tests have left running or registered doesn't change it


if __name__ == "__main__":
    main()
