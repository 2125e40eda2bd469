"""The acceptance test that is written where a task has no checks: it has to fail by assertion before it counts."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path, PurePosixPath

from minimax_code.contract import Check
from minimax_code.model import Message, Model, Request
from minimax_code.skills.answer import files_in
from minimax_code.skills.prompt import prompt_of
from minimax_code.work.checks import command_of
from minimax_code.work.dialect import GO, Dialect, dialect_of
from minimax_code.work.frozen import lay
from minimax_code.work.survey import survey
from minimax_code.work.task import Task
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.files import source_paths
from minimax_code.workbench.testrun import TestRun

ATTEMPTS = 3


class AcceptanceTest:
    """A test file that fails on the base: by assertion, or because what it calls is not there.

    Attributes:
        text: of the file.
        check: the run of it, with all of its cases as far as they are known.
        failed: what fails without the work.
    """

    def __init__(self, path: str, text: str, dialect: Dialect, run: TestRun) -> None:
        self.path, self.text = path, text
        cases = tuple(case.name for case in run.cases if dialect.case.search(case.name))
        self.check = Check(command=command_of(dialect.suite, [path]), cases=cases)
        self.failed = tuple(case.name for case in run.failures)


async def write_acceptance_test(task: Task, *, model: Model, bench: Workbench) -> AcceptanceTest | list[str]:
    """Has a model write a test for the runner of the repository; the workspace then has it.

    Returns:
        The test, or why each attempt can't be used; then the workspace is as it was.

    Raises:
        ModelError, BudgetError, SandboxError: as they come.
    """
    base, folder = await bench.workspace.snapshot(), bench.workspace.path
    dialect, problem = await dialect_of(task.text, bench)
    if problem:
        return [problem]
    path = _free_path(folder, dialect, task.description)
    max_tokens = min(2048, (await model.abilities()).context_tokens // 3)
    asked = prompt_of(
        "acceptance", "minimax_code.work", path=path, language=dialect.language, runner=dialect.runner,
        manners=dialect.manners,
    )  # fmt: skip
    messages = [
        Message(role="system", content=asked),
        Message(role="user", content=f"{task.text}\n\n{survey(folder, max_tokens)}"),
    ]
    problems: list[str] = []
    for _ in range(ATTEMPTS):
        reply = await model.reply(Request(messages=tuple(messages), max_tokens=max_tokens))
        text, problem = _test_in(reply.content, dialect)
        if not problem:
            lay(folder, {path: text})
            run = await bench.run_tests([path], suite=dialect.suite)
            problem = dialect.why_it_proves_nothing(run)
            if not problem:
                return AcceptanceTest(path, text, dialect, run)
            await bench.workspace.restore(base)
        problems.append(problem)
        messages += [
            reply.message,
            Message(role="user", content=f"This can't be used: {problem}\nWrite the whole file again."),
        ]
    return problems


def _free_path(folder: Path, dialect: Dialect, description: str) -> str:
    words = "_".join(re.findall(r"[a-z0-9]+", description.lower())[:5] or ["acceptance"])
    beside = ""
    if dialect is GO:  # whose tests lie beside what they test: here where most files do
        folders = Counter(PurePosixPath(path).parent for path in source_paths(folder) if path.endswith(".go"))
        beside = next((f"{parent}/" for parent, _ in folders.most_common(1) if parent.name), "")
    names = (beside + dialect.path.format(f"{words}{'' if i == 1 else f'_{i}'}") for i in range(1, 1000))
    return next(name for name in names if not (folder / name).exists())


def _test_in(answer: str, dialect: Dialect) -> tuple[str, str]:
    """The test file of an answer as it will be run, and what is wrong with it, or ""."""
    files, whole = files_in(answer, dialect.language)
    if not files:
        return "", f"there is no fenced block of {dialect.language} in the answer."
    if not whole:
        return "", "the answer was cut off before the file's end; write fewer tests."
    return dialect.prepare(max(files, key=lambda file: len(file.content)).content)
