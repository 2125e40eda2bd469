"""What a model reaches: on HumanEval by first answers and by the skills' search, on tasks by agent and by pipeline."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.code_book import Row
from benchmarks.code_humaneval import Problem, passes
from benchmarks.code_tasks import Task, lay, solves
from minimax_code.contract import Check
from minimax_code.errors import ModelError
from minimax_code.events import MemoryLog
from minimax_code.model import Model, Strategy, Usage
from minimax_code.skills.answer import Wish
from minimax_code.skills.edits import EditError
from minimax_code.skills.effort import Effort
from minimax_code.skills.generate import generate
from minimax_code.work import task as work
from minimax_code.work.checks import command_of
from minimax_code.work.execute import execute
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.sandbox import Sandbox
from minimax_code.workbench.workspace import Workspace

_WISH = "Write this function, complete, with its signature and what it imports:\n\n{prompt}"
_NAMED = 10  # tests that the model is told of; it sees them all


async def answer_problem(model: Model, sandbox: Sandbox, problem: Problem, candidates: int) -> Row:
    """A model's answer to a problem of HumanEval, and what the skill says of it."""
    effort = Effort(candidates=candidates, max_tokens=400, temperature=0.0, seed=1)
    code, usage = "", Usage()
    with tempfile.TemporaryDirectory(prefix="openm3-code-") as name:
        workspace = await Workspace.create(None, Path(name, "workspace"))
        wish = Wish(prompt=_WISH.format(prompt=problem.prompt), language="python")
        try:
            solution = await generate(model, Workbench(workspace, sandbox), wish, effort=effort)
        except EditError as error:
            state = f"no answer: {error}"
        else:
            state, usage = solution.verdict, solution.usage
            code = "\n".join(file.content for file in solution.files if f"def {problem.entry}" in file.content)
    passed = bool(code) and await passes(sandbox, problem, code)
    return _row(problem.name, passed, state, usage, claims=state == "verified")


async def do_task(
    model: Model,
    sandbox: Sandbox,
    task: Task,
    wanted: frozenset[str],
    strategy: Strategy,
    *,
    constraints: Mapping[str, str],
    calibrations: Path,
) -> Row:
    """What comes of a task that a model works on, by our own judgement and by that of its result.

    Args:
        wanted: the tests that pass with the release's own sources.
        calibrations: where that of the model is.

    Raises:
        ModelError: the model's server isn't there.
    """
    named = sorted(task.failing)[:_NAMED]
    more = f"\n- and {len(task.failing) - len(named)} more" if len(task.failing) > len(named) else ""
    asked = f"{task.statement}\n\nThese tests fail, and have to pass:\n" + "\n".join(f"- {one}" for one in named) + more
    check = Check(command=command_of("python", task.files), exit_code=None, cases=tuple(sorted(task.failing)))
    with tempfile.TemporaryDirectory(prefix="openm3-code-") as name:
        tree, place = Path(name, "tree"), Path(name, "place")
        lay(task.suite, task.old, tree)
        try:
            result = await execute(
                work.Task(description=asked, checks=[check], constraints=constraints),
                model=model, folder=tree, place=place, log=MemoryLog(), sandbox=sandbox, strategy=strategy,
                calibrations=calibrations,
            )  # fmt: skip
        except ModelError as error:
            await model.abilities()
            return _row(task.name, False, f"the model refused: {error}", Usage())
        workspace = await Workspace.open(place)
        await workspace.restore(result.tree)
        passed = await solves(sandbox, task, workspace.path, wanted)
    return _row(task.name, passed, result.state, result.cost.usage, calls=result.cost.calls, claims=result.success)


def _row(name: str, passed: bool, state: str, usage: Usage, **more: Any) -> Row:
    says = f"{'passes' if passed else 'fails'} ({state})"
    return {"task": name, "passed": passed, "state": state, "tokens": usage.total_tokens, **more, "says": says}


def interval(passed: int, of: int) -> tuple[float, float]:
    """Wilson's interval for a share, 95%."""
    if not of:
        return 0.0, 1.0
    z, share = 1.96, passed / of
    middle, half = share + z * z / (2 * of), z * (share * (1 - share) / of + z * z / (4 * of * of)) ** 0.5
    return max(0.0, (middle - half) / (1 + z * z / of)), min(1.0, (middle + half) / (1 + z * z / of))


def summary(ways: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """Of each way its share with an interval, tokens and seconds; of tasks alone that were done every way."""
    both = set.intersection(*({row["task"] for row in rows} for rows in ways.values())) if ways else set()
    return {way: _share([row for row in rows if row["task"] in both]) for way, rows in ways.items()}


def _share(rows: Sequence[Row]) -> dict[str, Any]:
    passed = sum(row["passed"] for row in rows)
    claims = [row for row in rows if row.get("claims")]
    return {
        "passed": passed, "of": len(rows), "interval": interval(passed, len(rows)),
        "claimed": len(claims), "wrongly": sum(not row["passed"] for row in claims),
        "tokens": sum(row["tokens"] for row in rows), "seconds": round(sum(row["seconds"] for row in rows), 1),
        "states": _counts(row["state"].partition(":")[0] for row in rows),
        "solved": sorted(row["task"] for row in rows if row["passed"]),
    }  # fmt: skip


def _counts(words: Iterable[str]) -> dict[str, int]:
    counts: defaultdict[str, int] = defaultdict(int)
    for word in words:
        counts[word] += 1
    return dict(counts)
