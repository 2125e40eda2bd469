"""How acceptance tests are written for the runner that a repository uses, and what their failures say."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from minimax_code.work.frozen import read
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.files import source_paths
from minimax_code.workbench.syntax import first_error, language_of
from minimax_code.workbench.testrun import Suite, TestRun, is_test

_BUILT_IN = sys.stdlib_module_names | {"pytest", "hypothesis"}


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """Tests of one runner.

    Attributes:
        runner, language, manners: as the model is told of them.
        path: of a new file, with the words of the task in the place of the braces.
        probe: a command that succeeds where the runner is there; of Python that of the workbench.
        prepare: a file as it will be run, and what is wrong with it, or "".
        by_assertion: found in what a test says that fails as it should.
        by_absence: found in what is said where the code that it calls isn't there yet.
        case: found in the names of tests; what else a runner names is a file or a package that can't be loaded.
    """

    suite: Suite
    runner: str
    language: str
    manners: str
    path: str
    probe: tuple[str, ...]
    prepare: Callable[[str], tuple[str, str]]
    by_assertion: re.Pattern[str]
    by_absence: re.Pattern[str]
    case: re.Pattern[str]

    def why_it_proves_nothing(self, run: TestRun) -> str:
        """Why a run on the files before the work says nothing about the work, or ""."""
        if run.passed:
            return "every test passes already, without the work."
        for case in run.failures:
            if not self.by_assertion.search(case.message) and not self.by_absence.search(case.message):
                last = case.message.strip().splitlines()[-1:] or [case.outcome]
                return f"without the work {case.name} has to fail by assertion, and it ends otherwise: {last[0]}"
        return "" if run.failures else f"it can't be run: {run.summary}."


def _prepare_python(text: str) -> tuple[str, str]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        return text, f"it is not Python: {error}."
    tests = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test")]
    if not tests:
        return text, "it has no function whose name begins with test."
    idle = [test.name for test in tests if not any(_asserts(node) for node in ast.walk(test))]
    if idle:
        return text, f"{', '.join(idle)} asserts nothing."
    return _guard_imports(text, tree), ""


def _asserts(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return name.startswith(("assert", "raises", "fail"))
    return isinstance(node, ast.Assert)


def _guard_imports(text: str, tree: ast.Module) -> str:
    """The file with its imports of what is yet to be written in one `try`, so that their absence fails each test by
    assertion rather than the file as a whole."""
    ours = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom) and not _is_built_in(node)]
    if not ours:
        return text
    lines = text.splitlines()
    inside = [f"    {line}" for node in ours for line in ast.unparse(node).splitlines()]
    taken = {number for node in ours for number in range(node.lineno - 1, node.end_lineno or node.lineno)}
    kept = [line for number, line in enumerate(lines) if number not in taken]
    future = [line for line in kept if line.startswith("from __future__ ")]
    kept = [line for line in kept if line not in future]
    guard = [
        *future,
        "try:",
        *inside,
        "except ImportError as error:",
        "    MISSING = str(error)",
        "else:",
        '    MISSING = ""',
        "",
        "",
        "def setUpModule():",
        "    assert not MISSING, MISSING",
        "",
    ]
    return "\n".join([*guard, *kept]).rstrip() + "\n"


def _is_built_in(node: ast.Import | ast.ImportFrom) -> bool:
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    return all(name.split(".")[0] in _BUILT_IN for name in names)


def _prepare(language: str, test: str, asserts: str) -> Callable[[str], tuple[str, str]]:
    """For a language that is read by its syntax and by what tests are written with."""

    def prepare(text: str) -> tuple[str, str]:
        if line := first_error(text.encode(errors="replace"), language):
            return text, f"line {line} can't be read."
        if not re.search(test, text, re.MULTILINE):
            return text, "it has no test."
        return text, "" if re.search(asserts, text) else "it asserts nothing."

    return prepare


_PYTHON_ASSERTED = re.compile(r"\bAssertionError\b|\bFailed: |^E +assert ", re.MULTILINE)
PYTEST = Dialect(
    suite="python",
    runner="pytest",
    language="python",
    manners="Tests are functions. Files are written under pytest's `tmp_path` alone.",
    path="tests/test_{}.py",
    probe=("python", "-c", "import pytest"),
    prepare=_prepare_python,
    by_assertion=_PYTHON_ASSERTED,
    by_absence=re.compile("ModuleNotFoundError|cannot import name|AttributeError: (?:module|type object) "),
    case=re.compile("::"),
)
UNITTEST = replace(
    PYTEST,
    runner="unittest",
    manners="Tests are methods of a `unittest.TestCase`. Files are written into a `tempfile.TemporaryDirectory` alone.",
    case=re.compile(r"::|^[\w.]+$"),  # of pytest, where it is there, or of unittest
)
NODE = Dialect(
    suite="node",
    runner="node --test",
    language="javascript",
    manners="It is an ESM with `node:test` and `node:assert/strict`, and imports what it tests by a relative path.",
    path="test/{}.test.mjs",
    probe=("node", "--version"),
    prepare=_prepare("javascript", r"^\s*(?:test|it)(?:\.\w+)?\(", r"\bassert[.(]"),
    by_assertion=re.compile("AssertionError|ERR_ASSERTION"),
    by_absence=re.compile(
        "ERR_MODULE_NOT_FOUND|does not provide an export named|is not a (?:function|constructor)|MODULE_NOT_FOUND"
    ),
    case=re.compile(" > "),
)
GO = Dialect(
    suite="go",
    runner="go test",
    language="go",
    manners="It uses the package `testing` alone, and is of the package whose files lie beside it.",
    path="{}_test.go",
    probe=("go", "version"),
    prepare=_prepare("go", r"^func Test\w*\(\w+ \*testing\.T\)", r"\.(?:Error|Errorf|Fatal|Fatalf|Fail|FailNow)\("),
    by_assertion=re.compile(r"^\s+\w+_test\.go:\d+: ", re.MULTILINE),
    by_absence=re.compile(r"undefined: |undefined \(|no required module|is not in GOROOT|go\.mod file not found"),
    case=re.compile(r"/Test\w+$"),
)

_SPOKEN = {
    "python": re.compile(r"\bpython\b|\w\.py\b|\bpytest\b|\bunittest\b", re.IGNORECASE),
    "javascript": re.compile(r"\bjavascript\b|\bnode\.js\b|\w\.[mc]?js\b", re.IGNORECASE),
    "go": re.compile(r"\bgolang\b|\w\.go\b|\b[Ii]n Go\b"),
}


async def dialect_of(text: str, bench: Workbench) -> tuple[Dialect, str]:
    """The dialect for a task: of the one language that it names, else of most of the source files; and why tests can't
    be run here, or "".

    Raises:
        SandboxError: the sandbox can't be started.
    """
    paths = source_paths(bench.workspace.path)
    spoken = [language for language, words in _SPOKEN.items() if words.search(text)]
    if len(spoken) != 1:
        counted = Counter(language for path in paths if (language := language_of(path)) in _SPOKEN)
        spoken = [language for language, _ in counted.most_common(1) if language] or ["python"]
    if spoken == ["python"]:
        has_pytest = (await bench.run((bench.python, *PYTEST.probe[1:]))).succeeded
        return UNITTEST if not has_pytest or _uses_unittest(bench.workspace.path, paths) else PYTEST, ""
    dialect = NODE if spoken == ["javascript"] else GO
    is_there = (await bench.run(dialect.probe)).succeeded
    return dialect, "" if is_there else f"{dialect.probe[0]} is not there to run tests with"


def _uses_unittest(folder: Path, paths: Sequence[str]) -> bool:
    texts = [read(folder, path) or "" for path in paths if is_test(path, "python")]
    return any("import unittest" in text for text in texts) and not any("pytest" in text for text in texts)
