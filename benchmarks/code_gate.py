"""The judge is judged first: references have to pass all, unchanged trees, empty answers and cheats none."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks import code_humaneval as humaneval
from benchmarks.code_book import Book, Row
from benchmarks.code_tasks import CHEATS, Task, cheating, mends, passed, run_suite
from minimax_code.workbench.sandbox import Sandbox

_LOST = 0.9  # tests that other versions of Python skip


async def gate_humaneval(sandbox: Sandbox, problems: Sequence[humaneval.Problem], book: Book) -> dict[str, Any]:
    """References and empty answers to all problems, and cheats to every eighth."""
    answers = {"reference": None, "empty": "", **humaneval.CHEATS}

    async def judge(problem: humaneval.Problem, answer: str | None) -> Row:
        right = await humaneval.passes(sandbox, problem, problem.reference if answer is None else answer)
        return {"passed": right, "says": "passes" if right else "fails"}

    rows = []
    for name, answer in answers.items():
        chosen = problems[:: 1 if name in ("reference", "empty") else 8]
        jobs = [((name, one.name), partial(judge, one, answer)) for one in chosen]
        done = await book.all(f"gate, Python {platform.python_version()}", jobs)
        rows.append({"answer": name, "passed": sum(row["passed"] for row in done), "of": len(done),
                     "seconds": sum(row["seconds"] for row in done)})  # fmt: skip
    holds = all(row["passed"] == (row["of"] if row["answer"] == "reference" else 0) for row in rows)
    return {"rows": rows, "holds": holds}


async def gate_tasks(sandbox: Sandbox, tasks: Sequence[Task], book: Book) -> dict[str, Any]:
    """For each task the release's own sources, the sources that are given, and these with each cheat.

    A task of which something else comes here than where its recipe was made is `wrong`, and no model is asked it.
    """
    jobs = [((one.name, one.digest), partial(_judge, sandbox, one)) for one in tasks]
    rows = await book.all(f"gate, Python {platform.python_version()}", jobs)
    return {"rows": rows, "holds": not any(row["wrong"] for row in rows)}


async def _judge(sandbox: Sandbox, task: Task) -> Row:
    new, old = [await run_suite(sandbox, task.suite, tree) for tree in (task.suite.new, task.old)]
    wanted, before = passed(new), passed(old)
    wrong = [f"{name}: {run.problem}" for name, run in (("reference", new), ("empty", old)) if run.problem]
    if wanted - before != task.failing:
        wrong.append("other tests fail than the recipe says")
    if len(wanted & before) < _LOST * task.passing:
        wrong.append(f"{len(wanted & before)} tests pass before and after instead of {task.passing}")
    if not await mends(sandbox, task, task.suite.new):
        wrong.append("reference: the tests that it mends fail by themselves")
    if await mends(sandbox, task, task.old):
        wrong.append("empty: mends its tests")
    for cheat in () if wrong else CHEATS:
        with cheating(task, cheat) as folder:
            if await mends(sandbox, task, folder):
                wrong.append(f"{cheat}: mends its tests")
    says = "; ".join(wrong) or f"{len(task.failing)} to mend, {len(wanted & before)} to keep"
    return {
        "task": task.name, "failing": len(task.failing), "passing": len(wanted & before), "wrong": wrong,
        "tests_s": round(new.receipt.seconds, 2), "wanted": sorted(wanted), "says": says,
    }  # fmt: skip
