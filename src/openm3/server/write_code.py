"""From a request to `/v1/code/generate` to the skill that does it."""

from __future__ import annotations

from minimax_code.errors import InputError
from minimax_code.model import Model
from minimax_code.skills.answer import Wish
from minimax_code.skills.change import fix, refactor
from minimax_code.skills.checks import Checks
from minimax_code.skills.document import document
from minimax_code.skills.effort import Effort
from minimax_code.skills.generate import generate
from minimax_code.skills.solution import Solution
from minimax_code.skills.write_tests import TestWish, write_tests
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.testrun import is_test
from openm3.server.errors import ApiError
from openm3.server.schema.code import GenerateRequest


async def write_code(model: Model, bench: Workbench | None, asked: GenerateRequest, effort: Effort) -> Solution:
    """What the request asks for, with everything that was checked.

    Args:
        bench: with the request's files; None: there is no sandbox, so nothing is run.

    Raises:
        InputError: a field doesn't suit the task.
        ApiError: the task needs a sandbox.
    """
    files = asked.code_files()
    checks = Checks(tests=tuple(asked.test_files()))
    paths = [file.path for file in files if file.language == "python" and not is_test(file.path)]
    match asked.task:
        case "generate":
            wish = Wish(
                prompt=asked.prompt,
                language=asked.language,
                framework=asked.framework,
                style=asked.style,
                include_tests=asked.include_tests,
                standards=tuple(asked.standards or ()),
                files=tuple(files),
            )
            return await generate(model, bench, wish, checks=checks, effort=effort)
        case "tests":
            if not paths:
                raise InputError("files", "have no Python file to write tests for")
            wanted = TestWish(
                framework=asked.framework or "pytest",
                wishes=asked.prompt,
                coverage_percent=asked.coverage_target,
            )
            sources = [file for file in files if file.path in paths]
            return await write_tests(model, bench, sources, wish=wanted, effort=effort)
        case "document":
            if not paths:
                raise InputError("files", "have no Python file to document")
            sources = [file for file in files if file.path in paths]
            return await document(
                model, bench, sources, style=asked.style or "google", wishes=asked.prompt, effort=effort
            )
        case "fix" | "refactor":
            if not files:
                raise InputError("files", f"are needed for the task {asked.task!r}")
            if bench is None:
                raise ApiError(503, f"{asked.task!r} needs a sandbox, and there is none here", code="no_sandbox")
            if asked.task == "fix":
                return await fix(model, bench, asked.prompt, checks=checks or None, effort=effort)
            return await refactor(model, bench, asked.prompt, paths=paths, effort=effort)
