"""The acceptance test that is written where a task has no checks: it has to fail by assertion before it counts."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from minimax_code.contract import Check
from minimax_code.model import Message, Model, Request
from minimax_code.skills.answer import files_in
from minimax_code.skills.prompt import prompt_of
from minimax_code.work.checks import command_of
from minimax_code.work.frozen import lay
from minimax_code.work.survey import survey
from minimax_code.work.task import Task
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.testrun import TestRun

ATTEMPTS = 3
_ASSERTED = re.compile(r"\bAssertionError\b|\bFailed: |^E +assert ", re.MULTILINE)
_BUILT_IN = sys.stdlib_module_names | {"pytest", "hypothesis"}


class AcceptanceTest:
    """A test file that fails on the base by assertion.

    Attributes:
        text: of the file.
        check: the run of it, with all of its cases.
        failed: those that fail without the work.
    """

    def __init__(self, path: str, text: str, run: TestRun) -> None:
        self.path, self.text = path, text
        self.check = Check(command=command_of("python", [path]), cases=tuple(case.name for case in run.cases))
        self.failed = tuple(case.name for case in run.failures)


async def write_acceptance_test(task: Task, *, model: Model, bench: Workbench) -> AcceptanceTest | list[str]:
    """Has a model write a test; the workspace then has it.

    Returns:
        The test, or why each attempt can't be used; then the workspace is as it was.

    Raises:
        ModelError, BudgetError, SandboxError: as they come.
    """
    base, folder = await bench.workspace.snapshot(), bench.workspace.path
    path = _free_path(folder, task.description)
    max_tokens = min(2048, (await model.abilities()).context_tokens // 3)
    messages = [
        Message(role="system", content=prompt_of("acceptance", "minimax_code.work", path=path)),
        Message(role="user", content=f"{task.text}\n\n{survey(folder, max_tokens)}"),
    ]
    problems: list[str] = []
    for _ in range(ATTEMPTS):
        reply = await model.reply(Request(messages=tuple(messages), max_tokens=max_tokens))
        text, problem = _test_in(reply.content)
        if not problem:
            lay(folder, {path: text})
            run = await bench.run_tests([path], suite="python")
            problem = _why_it_proves_nothing(run)
            if not problem:
                return AcceptanceTest(path, text, run)
            await bench.workspace.restore(base)
        problems.append(problem)
        messages += [
            reply.message,
            Message(role="user", content=f"This can't be used: {problem}\nWrite the whole file again."),
        ]
    return problems


def _free_path(folder: Path, description: str) -> str:
    words = re.findall(r"[a-z0-9]+", description.lower())[:5] or ["acceptance"]
    names = (f"tests/test_{'_'.join(words)}{'' if i == 1 else f'_{i}'}.py" for i in range(1, 1000))
    return next(name for name in names if not (folder / name).exists())


def _test_in(answer: str) -> tuple[str, str]:
    """The test file of an answer as it will be run, and what is wrong with it, or ""."""
    files, whole = files_in(answer, "python")
    if not files:
        return "", "there is no fenced block of Python in the answer."
    if not whole:
        return "", "the answer was cut off before the file's end; write fewer tests."
    text = max(files, key=lambda file: len(file.content)).content
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        return "", f"it is not Python: {error}."
    tests = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test")]
    if not tests:
        return "", "it has no function whose name begins with test."
    idle = [test.name for test in tests if not any(_asserts(node) for node in ast.walk(test))]
    if idle:
        return "", f"{', '.join(idle)} asserts nothing."
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


def _why_it_proves_nothing(run: TestRun) -> str:
    if run.passed:
        return "every test passes already, without the work."
    for case in run.failures:
        if not _ASSERTED.search(case.message):
            last = case.message.strip().splitlines()[-1:] or [case.outcome]
            return f"without the work {case.name} has to fail by assertion, and it ends otherwise: {last[0]}"
    if not run.failures:
        return f"it can't be run: {run.summary}."
    return ""
