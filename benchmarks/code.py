"""How often code is right: HumanEval and tasks from neighbouring releases, judged in our sandbox.

First the judge is judged: references have to pass all, empty answers and cheats none. Only then a model is asked:

    python -m benchmarks.code                                    the gates
    python -m benchmarks.code --model http://127.0.0.1:8000/v1 --minutes 15

A model's problems are the same for each way of asking: once, and with the skills' verification. Where the time doesn't
last for all 164 they are a sample.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import code_humaneval as humaneval
from benchmarks import code_sdist as sdist
from benchmarks.code_model import compare
from benchmarks.machine import describe, save, spread
from minimax_code.remote import ServerModel
from minimax_code.workbench.sandbox import Sandbox, find_sandbox
from minimax_code.workbench.workspace import Workspace

_REPEATS = 21


async def gate_humaneval(sandbox: Sandbox, say: Callable[[str], None]) -> dict[str, Any]:
    """References and empty answers to all problems, and cheats to every eighth."""
    answers = {"reference": None, "empty": "", **humaneval.CHEATS}
    rows = []
    for name, answer in answers.items():
        began = time.monotonic()
        problems = humaneval.problems()[:: 1 if name in ("reference", "empty") else 8]
        given = [(one, one.reference if answer is None else answer) for one in problems]
        passed = sum(await humaneval.score(sandbox, given))
        rows.append({"answer": name, "passed": passed, "of": len(problems), "seconds": time.monotonic() - began})
        say(f"HumanEval, {name}: {passed} of {len(problems)}")
    holds = all(row["passed"] == (row["of"] if row["answer"] == "reference" else 0) for row in rows)
    return {"rows": rows, "holds": holds}


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
        say(
            f"{task.name}: {len(new - old)} to mend, {len(new & old)} to keep, {sum(cheats.values())} cheats pass{told}"
        )
    holds = all(row["reference"] and not row["empty"] and not any(row["cheats"].values()) for row in rows)
    return {"rows": rows, "holds": holds}


async def speed(sandbox: Sandbox) -> dict[str, Any]:
    """Seconds to start the sandbox, and to take a snapshot of 5,000 files after an edit."""
    with tempfile.TemporaryDirectory(prefix="openm3-code-") as name:
        source = Path(name, "source")
        for folder in range(50):
            (source / f"d{folder}").mkdir(parents=True)
            for file in range(100):
                (source / f"d{folder}" / f"f{file}.py").write_text(f"x = {folder * file}\n")
        starts, snapshots = [], []
        for _ in range(_REPEATS):
            began = time.perf_counter()
            await sandbox.run(["true"], folder=source)
            starts.append(time.perf_counter() - began)
        workspace = await Workspace.create(source, Path(name, "workspace"))
        await workspace.snapshot()
        for number in range(_REPEATS):
            (workspace.path / "d1" / "f1.py").write_text(f"y = {number}\n")
            began = time.perf_counter()
            await workspace.snapshot()
            snapshots.append(time.perf_counter() - began)
    return {"start_s": spread(starts), "snapshot_s": spread(snapshots)}


def tell(result: dict[str, Any]) -> str:
    """The report for people."""
    start, snapshot = (result["speed"][key] for key in ("start_s", "snapshot_s"))
    lines = [
        f"Sandbox: {result['sandbox']}, started in {1000 * start['median']:.0f} ms (least {1000 * start['min']:.0f}). "
        f"Snapshot of 5,000 files after an edit: {snapshot['median']:.3f} s (least {snapshot['min']:.3f}).",
        "", "| HumanEval, answers | passed | of | seconds |", "|---|---|---|---|",
    ]  # fmt: skip
    for row in result["humaneval"]["rows"]:
        lines.append(f"| {row['answer']} | {row['passed']} | {row['of']} | {row['seconds']:.0f} |")
    lines += ["", "| task | to mend | to keep | reference | empty | cheats that pass |", "|---|---|---|---|---|---|"]
    for row in result["sdist"]["rows"]:
        passed = f"{sum(row['cheats'].values())} of {len(row['cheats'])}"
        lines.append(
            f"| {row['task']} | {len(row['failing'])} | {row['passing']} | {'passes' if row['reference'] else 'FAILS'} "
            f"| {'PASSES' if row['empty'] else 'fails'} | {passed} |"
        )
    if "model" in result:
        lines += ["", f"{result['model']['name']}, HumanEval:", ""]
        lines += ["| way | passed | of | pass@1, 95% | tokens | seconds |", "|---|---|---|---|---|---|"]
        for way, one in result["model"]["ways"].items():
            low, high = one["interval"]
            share = f"{one['passed'] / one['of']:.2f} ({low:.2f} to {high:.2f})"
            lines.append(
                f"| {way} | {one['passed']} | {one['of']} | {share} | {one['tokens']} | {one['seconds']:.0f} |"
            )
        first, search = (
            {row["problem"] for row in way["problems"] if row["passed"]} for way in result["model"]["ways"].values()
        )
        lines += ["", f"The search passes {len(search - first)} that the first answer fails, and fails "
                  f"{len(first - search)} that it passes."]  # fmt: skip
    return "\n".join(lines)


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Gates, and then the model."""
    sandbox = find_sandbox(arguments.sandbox)
    result: dict[str, Any] = {"machine": describe(), "sandbox": sandbox.name, "speed": await speed(sandbox)}
    result["humaneval"] = await gate_humaneval(sandbox, print)
    result["sdist"] = await gate_sdist(sandbox, print)
    if not (result["humaneval"]["holds"] and result["sdist"]["holds"]):
        raise SystemExit(f"{tell(result)}\n\nThe judge is wrong, so no model is judged.")
    if arguments.model:
        model = ServerModel(base_url=arguments.model)
        problems = humaneval.problems()
        random.Random(1).shuffle(problems)
        ways = await compare(
            model, sandbox, problems, candidates=arguments.candidates, at_once=arguments.at_once,
            seconds=60 * arguments.minutes, say=print,
        )  # fmt: skip
        result["model"] = {"name": model.name, "ways": ways}
    return result


def main() -> None:
    """Runs it and keeps the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sandbox", help="bubblewrap or landlock; by default the best that works")
    parser.add_argument("--model", help="base URL of a server with the model to measure")
    parser.add_argument("--minutes", type=float, default=15, help="for the model's problems")
    parser.add_argument("--candidates", type=int, default=4, help="of the search")
    parser.add_argument("--at-once", type=int, default=1, help="problems that are worked on at once")
    parser.add_argument("--save", default="code", help="name of the report")
    arguments = parser.parse_args()
    result = asyncio.run(run(arguments))
    save(arguments.save, result, tell(result))


if __name__ == "__main__":
    main()
