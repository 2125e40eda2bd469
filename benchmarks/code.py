"""How often code is right: HumanEval, and tasks from released packages, judged in our sandbox.

First the judge is judged: references have to pass all, empty answers, unchanged trees and cheats none. Only then a
model is asked. Answers are kept in a file as they come, and a run that was interrupted goes on where it was.

    python -m benchmarks.code                                     the gates
    python -m benchmarks.code --prepare --cache DIR               fetches everything into a folder to be carried
    python -m benchmarks.code --cache DIR --model http://127.0.0.1:8000/v1 --tasks 'mutation/*' --limit 20

Names are HumanEval/NUMBER, sdist/PACKAGE-RELEASE and mutation/PACKAGE-NUMBER.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import code_humaneval as humaneval
from benchmarks import code_tasks
from benchmarks.code_book import Book
from benchmarks.code_cache import Cache
from benchmarks.code_gate import gate_humaneval, gate_tasks
from benchmarks.code_model import answer_problem, do_task, summary
from benchmarks.machine import describe, save, spread
from minimax_code.errors import CodeError
from minimax_code.model import Strategy
from minimax_code.remote import ServerModel
from minimax_code.skills.calibration import calibrate, known_calibration
from minimax_code.workbench.sandbox import Sandbox, find_sandbox
from minimax_code.workbench.workspace import Workspace

_REPEATS = 21
_STRATEGIES: tuple[Strategy, ...] = ("agent", "pipeline")
_KINDS = {"sdist": "tasks of two releases", "mutation": "tasks of one changed line"}


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
    lines = [f"Sandbox: {result['sandbox']}."]
    if "speed" in result:
        start, snapshot = (result["speed"][key] for key in ("start_s", "snapshot_s"))
        lines[0] += (
            f" Started in {1000 * start['median']:.0f} ms (least {1000 * start['min']:.0f}). "
            f"Snapshot of 5,000 files after an edit: {snapshot['median']:.3f} s (least {snapshot['min']:.3f})."
        )
    if any(row["of"] for row in result["humaneval"]["rows"]):
        lines += ["", "| HumanEval, answers | passed | of | seconds |", "|---|---|---|---|"]
        for row in result["humaneval"]["rows"]:
            lines.append(f"| {row['answer']} | {row['passed']} | {row['of']} | {row['seconds']:.0f} |")
    if result["tasks"]:
        lines += ["", "| tasks | of | packages | gates hold | to mend | to keep | seconds of tests, median and most |"]
        lines.append("|---|---|---|---|---|---|---|")
    for kind, words in _KINDS.items():
        if kind in result["tasks"]:
            one = result["tasks"][kind]
            lines.append(
                f"| {words} | {one['of']} | {one['packages']} | {one['of'] - len(one['wrong'])} | {one['failing']} "
                f"| {one['passing']} | {one['tests_s']['median']:.1f}, {one['tests_s']['max']:.1f} |"
            )
            lines += [f"\n{name}: {why}" for name, why in one["wrong"].items()]
    if "model" in result:
        lines += ["", f"{result['model']['name']}:", ""]
        lines += ["| | way | passed | of | pass@1, 95% | says so, wrongly | tokens | seconds |", "|" + "---|" * 8]
        for kind, ways in result["model"]["kinds"].items():
            for way, one in ways.items():
                low, high = one["interval"]
                share = f"{one['passed'] / max(1, one['of']):.2f} ({low:.2f} to {high:.2f})"
                lines.append(
                    f"| {kind} | {way} | {one['passed']} | {one['of']} | {share} | {one['claimed']}, {one['wrongly']} "
                    f"| {one['tokens']} | {one['seconds']:.0f} |"
                )
        lines.append("")
        for kind, ways in result["model"]["kinds"].items():
            if len(ways) == 2:
                (one, first), (other, second) = ((way, set(found["solved"])) for way, found in ways.items())
                lines.append(
                    f"{kind}: {other} passes {len(second - first)} that {one} fails, and fails {len(first - second)} "
                    "that it passes."
                )
    return "\n".join(lines)


def chosen(names: Sequence[str], arguments: argparse.Namespace) -> list[str]:
    """The names that are asked for: of each kind a sample, the same each time, of which each beginning is one too."""
    found = sorted(name for name in names if any(fnmatchcase(name, pattern) for pattern in arguments.tasks))
    random.Random(1).shuffle(found)
    return found[: arguments.limit]


def recipes(arguments: argparse.Namespace) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """The recipes that are asked for, by kind and name."""
    found = {}
    of_releases = {recipe["name"]: recipe for recipe in code_tasks.read(code_tasks.RECIPES)}
    for kind, path in (("sdist", code_tasks.RECIPES), ("mutation", code_tasks.MUTANTS)):
        by_name = {f"{kind}/{recipe['name']}": recipe for recipe in code_tasks.read(path)}
        package = {
            name: of_releases[recipe.get("of", recipe["name"])]["new"]["project"] for name, recipe in by_name.items()
        }
        names = [name for name in by_name if not arguments.packages or package[name] in arguments.packages]
        found[kind] = [(name, by_name[name]) for name in chosen(names, arguments)]
    return found


def prepare(arguments: argparse.Namespace, cache: Cache) -> None:
    """Fetches what the tasks need, and says how much it is."""
    cache.folder.mkdir(parents=True, exist_ok=True)
    for kind, found in recipes(arguments).items():
        for _, recipe in found:
            code_tasks.fetch(kind, recipe, cache)
    humaneval.keep(cache.folder)
    files = [path for path in cache.folder.iterdir() if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    print(json.dumps({"folder": str(cache.folder), "files": len(files), "megabytes": round(size / 1e6, 1)}))


async def run(arguments: argparse.Namespace, cache: Cache) -> dict[str, Any]:
    """Gates, and then the model."""
    sandbox = find_sandbox(arguments.sandbox, [cache.needs])
    until = time.monotonic() + 60 * arguments.minutes
    book = Book(arguments.results or cache.folder / "results.jsonl", until=until, at_once=arguments.at_once)
    result: dict[str, Any] = {"machine": describe(), "sandbox": sandbox.name}
    if arguments.tasks == ["*"] and not arguments.packages:
        result["speed"] = await speed(sandbox)
    every = {one.name: one for one in humaneval.problems(cache.folder)}
    problems = [every[name] for name in chosen(list(every), arguments)] if not arguments.packages else []
    result["humaneval"] = await gate_humaneval(sandbox, problems, book)
    make = {"sdist": code_tasks.sdist_task, "mutation": code_tasks.mutation_task}
    tasks = {kind: [make[kind](recipe, cache) for _, recipe in found] for kind, found in recipes(arguments).items()}
    wanted: dict[str, frozenset[str]] = {}
    result["tasks"] = {}
    for kind, of_kind in tasks.items():
        gate = await gate_tasks(sandbox, of_kind, book)
        wanted |= {row["task"]: frozenset(row["wanted"]) for row in gate["rows"] if not row["wrong"]}
        if gate["rows"]:
            result["tasks"][kind] = {
                "of": len(gate["rows"]),
                "packages": len({task.suite.package for task in of_kind}),
                "wrong": {row["task"]: row["says"] for row in gate["rows"] if row["wrong"]},
                "failing": sum(row["failing"] for row in gate["rows"]),
                "passing": sum(row["passing"] for row in gate["rows"]),
                "tests_s": spread([row["tests_s"] for row in gate["rows"]]),
            }
    if not result["humaneval"]["holds"]:
        raise SystemExit(f"{tell(result)}\n\nThe judge of HumanEval is wrong, so no model is judged.")
    if arguments.model:
        asked = {kind: [task for task in of_kind if task.name in wanted] for kind, of_kind in tasks.items()}
        result["model"] = await measure(arguments, sandbox, book, problems, asked, wanted)
    return result


async def measure(
    arguments: argparse.Namespace,
    sandbox: Sandbox,
    book: Book,
    problems: Sequence[humaneval.Problem],
    tasks: dict[str, list[code_tasks.Task]],
    wanted: dict[str, frozenset[str]],
) -> dict[str, Any]:
    """Each way on the same tasks."""
    model = ServerModel(base_url=arguments.model)
    await model.abilities()
    calibrations = book.path.parent / "calibrations"
    calibration = known_calibration(model.name, calibrations) or await calibrate(model, calibrations)
    kinds: dict[str, Any] = {}
    ways = {"first answer": 1, f"best of {arguments.candidates} by running": arguments.candidates}
    answers = [
        ((model.name, way, one.name), partial(answer_problem, model, sandbox, one, number))
        for one in problems for way, number in ways.items()
    ]  # fmt: skip
    rows = await book.all("HumanEval", answers)
    kinds["HumanEval"] = summary({way: [row for row in rows if f" | {way} | " in row["key"]] for way in ways})
    constraints = {
        "budget_limit": f"{arguments.calls} API calls",
        "max_execution_time": f"{arguments.seconds} seconds",
    }
    for kind, of_kind in tasks.items():
        work = partial(do_task, model, sandbox, constraints=constraints, calibrations=calibrations)
        jobs = [
            ((model.name, strategy, one.name, one.digest), partial(work, one, wanted[one.name], strategy))
            for one in of_kind for strategy in arguments.strategies
        ]  # fmt: skip
        rows = await book.all("task", jobs)
        by_way = {way: [row for row in rows if f" | {way} | " in row["key"]] for way in arguments.strategies}
        kinds[kind] = summary(by_way)
    await model.close()
    done = {kind: found for kind, found in kinds.items() if any(one["of"] for one in found.values())}
    return {"name": model.name, "calibration": calibration.strategy, "kinds": done, **constraints}


def main() -> None:
    """Runs it and keeps the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder with what was fetched; by default the user's cache folder")
    parser.add_argument("--prepare", action="store_true", help="only fetches what is needed into that folder")
    parser.add_argument("--tasks", nargs="+", default=["*"], metavar="PATTERN", help="names, or patterns of names")
    parser.add_argument("--packages", nargs="+", metavar="NAME", help="only tasks of these packages")
    parser.add_argument("--limit", type=int, help="at most so many of each kind, the same sample each time")
    parser.add_argument("--results", type=Path, help="file of what is known; by default results.jsonl in the cache")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, help="tasks that are worked on at a time")
    parser.add_argument("--sandbox", help="bubblewrap or landlock; by default the best that works")
    parser.add_argument("--model", help="base URL of a server with the model to measure")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which nothing more is begun")
    parser.add_argument("--strategies", nargs="+", default=_STRATEGIES, choices=_STRATEGIES, help="for tasks")
    parser.add_argument("--candidates", type=int, default=4, help="of the search, for HumanEval")
    parser.add_argument("--calls", type=int, default=40, help="of the model, for a task")
    parser.add_argument("--seconds", type=int, default=600, help="for a task")
    parser.add_argument("--save", metavar="NAME", help="writes a dated report to benchmarks/results")
    arguments = parser.parse_args()
    with Cache(arguments.cache) as cache:
        if arguments.prepare:
            return prepare(arguments, cache)
        try:
            result = asyncio.run(run(arguments, cache))
        except CodeError as error:
            raise SystemExit(f"{error}; what is known is kept, and the same command goes on") from error
    if arguments.save:
        return save(arguments.save, result, tell(result))
    print(tell(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
