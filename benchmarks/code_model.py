"""What a model reaches on HumanEval: by its first answer, and by the skills' search among several that are run."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.code_humaneval import Problem, passes
from minimax_code.errors import ModelError
from minimax_code.model import Model, Usage
from minimax_code.skills.answer import Wish
from minimax_code.skills.edits import EditError
from minimax_code.skills.effort import Effort
from minimax_code.skills.generate import generate
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.sandbox import Sandbox
from minimax_code.workbench.workspace import Workspace

_WISH = "Write this function, complete, with its signature and what it imports:\n\n{prompt}"


def interval(passed: int, of: int) -> tuple[float, float]:
    """Wilson's interval for a share, 95%."""
    z, share = 1.96, passed / of
    middle, half = share + z * z / (2 * of), z * (share * (1 - share) / of + z * z / (4 * of * of)) ** 0.5
    return (middle - half) / (1 + z * z / of), (middle + half) / (1 + z * z / of)


async def answer(model: Model, sandbox: Sandbox, problem: Problem, effort: Effort) -> tuple[str, Usage, str]:
    """A model's answer to a problem, what it has cost, and what the skill says of it."""
    with tempfile.TemporaryDirectory(prefix="openm3-code-") as name:
        workspace = await Workspace.create(None, Path(name, "workspace"))
        wish = Wish(prompt=_WISH.format(prompt=problem.prompt), language="python")
        try:
            solution = await generate(model, Workbench(workspace, sandbox), wish, effort=effort)
        except (EditError, ModelError) as error:
            return "", Usage(), f"no answer: {error}"
    defining = [file.content for file in solution.files if f"def {problem.entry}" in file.content]
    return "\n".join(defining), solution.usage, solution.verdict


async def compare(
    model: Model,
    sandbox: Sandbox,
    problems: Sequence[Problem],
    *,
    candidates: int,
    at_once: int,
    seconds: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Each problem by both ways, a few at once, begun for as long as the time lasts; one begun is ended both ways."""
    ways = {"first answer": 1, f"best of {candidates} by running": candidates}
    rows: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    until, left = time.monotonic() + seconds, list(reversed(problems))

    async def work() -> None:
        while left and time.monotonic() < until:
            problem = left.pop()
            for way, number in ways.items():
                began = time.monotonic()
                effort = Effort(candidates=number, max_tokens=400, temperature=0.0, seed=1)
                code, usage, verdict = await answer(model, sandbox, problem, effort)
                passed = bool(code) and await passes(sandbox, problem, code)
                took = time.monotonic() - began
                rows[way].append({"problem": problem.name, "passed": passed, "verdict": verdict, "seconds": took,
                                  "tokens": usage.total_tokens})  # fmt: skip
                say(f"{problem.name}, {way}: {'passes' if passed else 'fails'} ({verdict}), {took:.0f} s")

    await asyncio.gather(*(work() for _ in range(at_once)))
    return {
        way: {
            "passed": sum(one["passed"] for one in found),
            "of": len(found),
            "interval": interval(sum(one["passed"] for one in found), len(found)),
            "tokens": sum(one["tokens"] for one in found),
            "seconds": sum(one["seconds"] for one in found),
            "problems": sorted(found, key=lambda one: str(one["problem"])),
        }
        for way, found in rows.items()
    }
