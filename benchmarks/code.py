"""How often code is right: HumanEval and tasks from neighbouring releases, judged in our sandbox.

First the judge is judged: references have to pass all, empty answers and cheats none. Only then a model is asked:

    python -m benchmarks.code                                    the gates
    python -m benchmarks.code --model http://127.0.0.1:8000/v1 --problems 30

A model's problems are a sample, the same for each way of asking: once, and with the skills' verification.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

from benchmarks import code_humaneval as humaneval
from benchmarks import code_sdist as sdist
from benchmarks.machine import describe, write
from minimax_code.workbench.sandbox import Sandbox, find_sandbox


def interval(passed: int, of: int) -> tuple[float, float]:
    """Wilson's interval for a share, 95%."""
    z, share = 1.96, passed / of
    middle, half = share + z * z / (2 * of), z * (share * (1 - share) / of + z * z / (4 * of * of)) ** 0.5
    return (middle - half) / (1 + z * z / of), (middle + half) / (1 + z * z / of)


async def gate_humaneval(sandbox: Sandbox, say: Callable[[str], None]) -> dict[str, Any]:
    """References, empty answers, and cheats on every problem."""
    problems = humaneval.problems()
    answers = {"reference": None, "empty": "", **humaneval.CHEATS}
    rows = []
    for name, answer in answers.items():
        began = time.monotonic()
        given = [(one, one.reference if answer is None else answer) for one in problems]
        passed = sum(await humaneval.score(sandbox, given))
        rows.append({"answer": name, "passed": passed, "of": len(problems), "seconds": time.monotonic() - began})
        say(f"HumanEval, {name}: {passed} of {len(problems)}")
    return {"rows": rows, "holds": all(row["passed"] == (row["of"] if row["answer"] == "reference" else 0) for row in rows)}


async def gate_sdist(sandbox: Sandbox, say: Callable[[str], None]) -> dict[str, Any]:
    """For each task the new release, the old one unchanged, and the old one with each cheat."""
    rows = []
    for task in sdist.tasks():
        began = time.monotonic()
        new, told = await sdist.outcome(sandbox, task, task.new)
        old, _ = await sdist.outcome(sandbox, task, task.old)
        cheats = {}
        for cheat in sdist.CHEATS:
            with sdist.cheating(task, cheat) as folder:
                cheats[cheat] = await sdist.solves(sandbox, task, folder, new)
        rows.append(
            {
                "task": task.name,
                "reference": not told and new - old == task.failing and len(new & old) == task.passing,
                "failing": sorted(new - old),
                "passing": len(new & old),
                "empty": bool(new) and new <= old,
                "cheats": cheats,
                "seconds": time.monotonic() - began,
            }
        )
        say(f"{task.name}: {len(new - old)} tests to mend, {len(new & old)} to keep; {sum(cheats.values())} cheats passed {told}")
    holds = all(row["reference"] and not row["empty"] and not any(row["cheats"].values()) for row in rows)
    return {"rows": rows, "holds": holds}


def tell(result: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"Sandbox: {result['sandbox']}. {len(result['sdist']['rows'])} tasks from releases.", ""]
    lines += ["| HumanEval, answers | passed | of | seconds |", "|---|---|---|---|"]
    lines += [
        f"| {row['answer']} | {row['passed']} | {row['of']} | {row['seconds']:.0f} |" for row in result["humaneval"]["rows"]
    ]
    lines += ["", "| task | to mend | to keep | reference | empty | cheats that pass |", "|---|---|---|---|---|---|"]
    for row in result["sdist"]["rows"]:
        passed = f"{sum(row['cheats'].values())} of {len(row['cheats'])}"
        lines.append(
            f"| {row['task']} | {len(row['failing'])} | {row['passing']} | {'passes' if row['reference'] else 'FAILS'} "
            f"| {'PASSES' if row['empty'] else 'fails'} | {passed} |"
        )
    return "\n".join(lines)


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Gates, and then models."""
    sandbox = find_sandbox(arguments.sandbox)
    say = print
    result: dict[str, Any] = {"machine": describe(), "sandbox": sandbox.name}
    result["humaneval"] = await gate_humaneval(sandbox, say)
    result["sdist"] = await gate_sdist(sandbox, say)
    if not (result["humaneval"]["holds"] and result["sdist"]["holds"]):
        print(tell(result))
        raise SystemExit("the judge is wrong, so no model is judged")
    return result
