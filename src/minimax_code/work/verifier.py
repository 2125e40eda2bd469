"""Looks at work as somebody who had no part in it: on a clean copy, offline, with checks run again and code broken.

What is proved or disproved by running counts first. A model's opinion can only take away from that, and only with
evidence; it never makes a red check green.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase

from minimax_code.agent import run_agent
from minimax_code.budget import Budget
from minimax_code.contract import Contract, Verdict
from minimax_code.errors import BudgetError, ModelError
from minimax_code.events import Log
from minimax_code.model import Model
from minimax_code.permissions import Permissions
from minimax_code.skills.prompt import prompt_of
from minimax_code.tools.standard import reading_tools
from minimax_code.work.checks import complaints, run_checks
from minimax_code.work.frozen import lay, read
from minimax_code.work.lines import changed_lines
from minimax_code.work.task import Task
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.receipt import Receipt
from minimax_code.workbench.testrun import is_test

VERIFIER = "verifier"
"""What it is called in the events, with the round."""

Lines = Mapping[str, Set[int]]

_PATIENCE = 15  # calls of tools for one verdict
_MUTANTS = 10
_SHARE_OF_DIFF = 0.4  # of the model's window
_TEST_SETTINGS = frozenset({
    "conftest.py", "pytest.ini", ".pytest.ini", "tox.ini", "setup.cfg", "pyproject.toml", "sitecustomize.py",
    "usercustomize.py",
})  # fmt: skip
_VERDICT = re.compile(r"^\W*VERDICT\W+(PASS|FAIL|PARTIAL)\b", re.MULTILINE)
_POINT = re.compile(r"^[-*] +(.+(?:\n(?![-*] |\W*VERDICT|\s*$).+)*)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is verified: a task, its contract, and the files before (`base`) and after (`tree`)."""

    task: Task
    contract: Contract
    base: str
    tree: str
    changed: Sequence[str]
    diff: str


async def verify(work: Work, bench: Workbench, *, model: Model | None, log: Log, budget: Budget, agent: str) -> Verdict:
    """What speaks for and against some work, each time in a clean copy of its files.

    Args:
        model: None where there is none that can judge; then what was run decides, if the checks are the user's.
        agent: what the verifier is called in the log, where its conversation is its own.

    Raises:
        ModelError: the model can't be asked.
        BudgetError: the budget was used up before a verdict.
        SandboxError: the sandbox can't be started.
    """
    async with bench.copy(work.tree) as clean:
        proof = await _prove(work, bench, clean)
    if proof.outcome == "FAIL":
        return proof
    if model is None:
        unread = ("no model has looked at the change: by its calibration it can't judge any",)
        return _weaker(proof, "PASS" if work.contract.origin == "user" else "PARTIAL", unread)
    async with bench.copy(work.tree) as clean:
        stopped = await run_agent(
            model,
            clean,
            instructions=await _brief(work, proof, model),
            system=prompt_of("verifier", "minimax_code.work"),
            log=log,
            budget=budget,
            permissions=Permissions(files="deny", outside="deny"),
            tools=reading_tools(),
            agent=agent,
            patience=_PATIENCE,
        )
    if stopped.reason == "failed":
        raise ModelError(stopped.message)
    if stopped.reason == "budget":
        raise BudgetError("", stopped.message)
    if stopped.reason != "finished":
        doubt = f"the verifier stopped before a verdict ({stopped.reason}): {stopped.message}"
        return _weaker(proof, "PARTIAL", (doubt,))
    return _weaker(proof, *read_verdict(stopped.message))


async def _prove(work: Work, bench: Workbench, clean: Workbench) -> Verdict:
    """What can be found without a model."""
    contract = work.contract
    touched = [path for path in work.changed if any(fnmatchcase(path, pattern) for pattern in contract.forbidden)]
    receipts = await run_checks(contract, clean)
    failures = [f"{path} may not be touched, and was" for path in touched]
    failures += complaints(contract, receipts, work.tree)
    doubts = [] if work.changed else ["nothing was changed"]
    doubts += [] if contract.checks else ["there is no acceptance check, so nothing is proven"]
    if contract.checks and not failures:
        lines = {path: new for path, new in changed_lines(work.diff).items() if not is_test(path)}
        failures += await _uncovered(contract, clean, lines)
        doubts += await _unnoticed(clean, lines)
        doubts += await _leaning(work, bench)
    outcome = "FAIL" if failures else "PARTIAL" if doubts else "PASS"
    return Verdict.model_validate(
        {"outcome": outcome, "tree": work.tree, "evidence": (*failures, *doubts), "receipts": receipts}
    )


async def _uncovered(contract: Contract, clean: Workbench, lines: Lines) -> list[str]:
    if contract.min_coverage is None or not lines:
        return []
    covered, _ = await clean.coverage(lines)
    if covered.percent is None or covered.percent >= contract.min_coverage:
        return []
    missing = "; ".join(f"{path}: {', '.join(map(str, sorted(m)))}" for path, m in covered.missing.items() if m)
    wanted = f"{contract.min_coverage:g}% are asked for"
    return [f"tests run {covered.percent:g}% of the changed lines, and {wanted}; not run are {missing}"]


async def _unnoticed(clean: Workbench, lines: Lines) -> list[str]:
    """Nothing, if the tests notice at least one small wrong change of the changed lines, or there is none to make."""
    if not lines or not clean.suites():
        return []
    mutation = await clean.mutate(lines, limit=_MUTANTS)
    if mutation.killed or not mutation.survived:
        return []
    first = mutation.survived[0]
    example = f"{first.path}:{first.line}, where {first.change}"
    return [f"the tests notice none of {len(mutation.survived)} small wrong changes of the work, such as {example}"]


async def _leaning(work: Work, bench: Workbench) -> list[str]:
    """Checks that are green only with what the work has changed in how tests are run."""
    settings = [path for path in work.changed if path.rpartition("/")[2] in _TEST_SETTINGS]
    if not settings:
        return []
    async with bench.copy(work.base) as base:
        before = {path: read(base.workspace.path, path) for path in settings}
    async with bench.copy(work.tree) as clean:
        folder = clean.workspace.path
        for path in settings:
            (folder / path).unlink(missing_ok=True)
        lay(folder, {path: text for path, text in before.items() if text is not None})
        receipts = await run_checks(work.contract, clean)
        tree = await clean.workspace.snapshot()
    if not work.contract.unmet(receipts, tree):
        return []
    return [f"the checks are met only with the changes of how tests are run: {', '.join(settings)}"]


async def _brief(work: Work, proof: Verdict, model: Model) -> str:
    characters = int((await model.abilities()).context_tokens * _SHARE_OF_DIFF * 3)
    diff = work.diff
    if len(diff) > characters:
        diff = f"{diff[:characters]}\n[{len(diff) - characters:,} characters more; read the files]"
    runs = [_shown(receipt) for receipt in proof.receipts] or ["nothing: there is no acceptance check"]
    return "\n\n".join(
        [
            f"# The task\n\n{work.task.text}",
            "# What was run on a clean copy\n\n" + "\n".join(f"- {run}" for run in runs),
            *(
                ["# What is in doubt\n\n" + "\n".join(f"- {doubt}" for doubt in proof.evidence)]
                if proof.evidence
                else []
            ),
            f"# The change\n\n{diff.rstrip() or 'Nothing was changed.'}",
            f"Look at it, and end with your verdict. (The files are those of tree {work.tree[:12]}.)",
        ]
    )


def _shown(receipt: Receipt) -> str:
    passed = sum(case.outcome == "passed" for case in receipt.cases)
    cases = f", {passed} of {len(receipt.cases)} tests passed" if receipt.cases else ""
    return f"`{' '.join(receipt.command)}` ended with {receipt.exit_code}{cases}"


def read_verdict(text: str) -> tuple[str, tuple[str, ...]]:
    """Outcome and evidence of what a verifier wrote: the last verdict counts; without evidence none speaks against."""
    found = _VERDICT.findall(text)
    points = tuple(" ".join(point.split()) for point in _POINT.findall(text))
    match found[-1:]:
        case []:
            return "PARTIAL", ("the verifier gave no verdict",)
        case ["FAIL"] if not points:
            return "PARTIAL", ("the verifier said FAIL without anything that could be looked up",)
        case ["PASS"]:
            return "PASS", ()
        case _:
            return found[-1], points


def _weaker(proof: Verdict, outcome: str, evidence: tuple[str, ...]) -> Verdict:
    order = ("FAIL", "PARTIAL", "PASS")
    return Verdict.model_validate(
        {
            "outcome": min(proof.outcome, outcome, key=order.index),
            "tree": proof.tree,
            "evidence": (*proof.evidence, *evidence),
            "receipts": proof.receipts,
        }
    )
