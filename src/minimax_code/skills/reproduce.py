"""Writes a test that fails because of a problem: by an assertion, not because it can't be run."""

from __future__ import annotations

import re
from collections.abc import Sequence

from minimax_code.model import Message, Model
from minimax_code.skills.answer import fenced, files_in
from minimax_code.skills.candidates import Outcome, Search
from minimax_code.skills.checks import failure_of, lay
from minimax_code.skills.edits import EditError
from minimax_code.skills.effort import Effort
from minimax_code.skills.prompt import prompt_of
from minimax_code.skills.solution import Solution
from minimax_code.skills.sources import localise, that_fit
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.files import CodeFile
from minimax_code.workbench.receipt import Case
from minimax_code.workbench.testrun import is_test

_BY_ASSERTION = re.compile(r"\bassert\b|AssertionError|DID NOT RAISE|not raised")


async def reproduce(
    model: Model, bench: Workbench, problem: str, *, paths: Sequence[str] = (), effort: Effort | None = None
) -> Solution:
    """A test that fails on the workspace as it is by an assertion; the workspace has it afterwards.

    "verified" says that it fails so, not that the problem is why. Else the workspace is as it was.

    Raises:
        InputError: a path is not there, or no file fits into the model's window.
        ModelError, SandboxError: there is no answer, or nothing can be run.
    """
    effort = effort or Effort()
    shown, _ = await that_fit(model, bench, list(paths) or await localise(bench, problem))
    base = await bench.workspace.snapshot()

    async def examine(written: Sequence[CodeFile]) -> tuple[tuple[CodeFile, ...], Outcome]:
        await bench.workspace.restore(base)
        lay(bench, written)
        ran = await bench.run_tests([file.path for file in written])
        asserted = [case for case in ran.cases if _fails_by_assertion(case)]
        other = next((case for case in ran.failures if case not in asserted), None)
        failure = "the test passes, so it doesn't show the problem"
        if other or ran.problem:
            failure = f"the test can't be run: {failure_of(other) if other else ran.problem}"
        elif asserted:
            failure = ""
        return tuple(written), Outcome(
            num_checks=1, num_passed=not failure, failure=failure, is_broken=bool(other), receipts=(ran.receipt,)
        )

    asked = "\n\n".join([prompt_of("reproduce", problem=problem), *map(fenced, shown)])
    search = Search(
        model=model,
        request=effort.request([Message(role="user", content=asked)]),
        read=lambda answer: one_test(answer, bench),
        examine=examine,
        num_candidates=effort.candidates,
        repairs=effort.known.repairs,
    )
    best = await search.best()
    await bench.workspace.restore(base)
    if best.outcome.passed:
        lay(bench, best.files)
    return Solution(
        files=best.files if best.outcome.passed else (),
        verdict="verified" if best.outcome.passed else "failed",
        receipts=best.outcome.receipts,
        usage=search.usage,
        text=best.reply.content,
        notes=(best.outcome.failure,) if best.outcome.failure else (),
        num_candidates=len(search.candidates),
        chosen=best.number,
    )


def one_test(answer: str, bench: Workbench | None, name: str = "test_problem.py") -> list[CodeFile]:
    """The file of tests in an answer, under a name that runners know and that is new.

    Raises:
        EditError: there is none.
    """
    files, is_whole = files_in(answer, "python")
    files = [file for file in files if file.language == "python" and "test" in file.content] or files
    if not files or not is_whole:
        raise EditError("the answer has no whole fenced block with a test")
    file = files[0]
    path = file.path if is_test(file.path, "python") else name
    while bench and (bench.workspace.path / path).exists():
        path = re.sub(r"(?:_(\d+))?\.py$", lambda match: f"_{int(match[1] or 1) + 1}.py", path)
    return [CodeFile(path, file.content)]


def _fails_by_assertion(case: Case) -> bool:
    return case.outcome == "failed" and bool(_BY_ASSERTION.search(case.message))
