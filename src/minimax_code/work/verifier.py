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
from minimax_code.contract import Contract, Outcome, Verdict
from minimax_code.errors import BudgetError, ModelError
from minimax_code.events import Log
from minimax_code.model import Model
from minimax_code.permissions import Permissions
from minimax_code.skills.prompt import prompt_of
from minimax_code.tools.standard import reading_tools
from minimax_code.work.checks import complaints, run_check, run_checks, tests_of
from minimax_code.work.frozen import lay, read
from minimax_code.work.lines import changed_lines
from minimax_code.work.task import Task
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.files import source_paths
from minimax_code.workbench.receipt import Receipt
from minimax_code.workbench.testrun import is_test

VERIFIER = "verifier"
"""What it is called in the events, with the round."""

Lines = Mapping[str, Set[int]]

_PATIENCE = 15  # calls of tools for one verdict
_MUTANTS = 10
_ENOUGH = 0.5  # of them; some wrong changes are none
_QUICK_S = 30.0  # a check that takes longer is not run for each of them
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
    if proof.mendable or not work.changed:  # whatever a model may say
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
    receipts = await run_checks(contract, clean)
    red = complaints(contract, receipts, work.tree)
    touched = [path for path in work.changed if any(fnmatchcase(path, pattern) for pattern in contract.forbidden)]
    doubts = [f"{path} may not be touched, and was" for path in touched]
    beyond = [] if work.changed else ["nothing was changed"]
    beyond += [] if contract.checks else ["there is no acceptance check, so nothing is proven"]
    if contract.checks and not red:
        lines = {path: new for path, new in changed_lines(work.diff).items() if not is_test(path)}
        tests = [path for path in work.changed if is_test(path, "python") and not lines]
        run = await _lines_run_by(tests, clean) if tests else lines
        measured = [await _uncovered(contract, clean, lines), await _unnoticed(contract, receipts, clean, run)]
        if tests and not any(measured[1]):
            doubts.append("the tests that were written run no line of which they could notice a change")
        doubts += [doubt for _, doubt in measured if doubt]
        receipts += tuple(receipt for receipt, _ in measured if receipt)
        doubts += await _leaning(work, bench)
    mendable = (*red, *doubts)
    return Verdict(
        outcome="FAIL" if red else "PARTIAL" if doubts or beyond else "PASS",
        tree=work.tree,
        evidence=(*mendable, *beyond),
        mendable=mendable,
        receipts=receipts,
    )


async def _uncovered(contract: Contract, clean: Workbench, lines: Lines) -> tuple[Receipt | None, str]:
    """The run that has measured which changed lines tests run, and what is wrong with that, or ""."""
    if contract.min_coverage is None or not lines:
        return None, ""
    covered, ran = await clean.coverage(lines)
    if covered.percent is None:
        return None, ""
    told = f"tests run {covered.percent:g}% of the changed lines"
    receipt = ran.receipt.model_copy(update={"command": ("coverage:", *sorted(lines)), "checked": told})
    if covered.percent >= contract.min_coverage:
        return receipt, ""
    missing = "; ".join(f"{path}: {', '.join(map(str, sorted(m)))}" for path, m in covered.missing.items() if m)
    return receipt, f"{told}, and {contract.min_coverage:g}% are asked for; not run are {missing}"


async def _lines_run_by(tests: Sequence[str], clean: Workbench) -> Lines:
    """Where nothing but tests was written: what they should notice is changes of the lines that they run."""
    paths = source_paths(clean.workspace.path)
    sources = [path for path in paths if path.endswith(".py") and not is_test(path)]
    run = await clean.run_tests(tests, suite="python", covered=sources)
    return {path: found for path, file in run.lines.items() if (found := file.statements - file.missing)}


async def _unnoticed(
    contract: Contract, receipts: Sequence[Receipt], clean: Workbench, lines: Lines
) -> tuple[Receipt | None, str]:
    """What became of small wrong changes of these lines; a doubt where tests and checks notice less than half."""
    suite = next(iter(clean.suites()), None)
    others = [
        check
        for check, receipt in zip(contract.checks, receipts, strict=True)
        if receipt.seconds < _QUICK_S and not check.is_looked_up and (tests_of(check.command) or ("",))[0] != suite
    ]

    async def notices(bench: Workbench) -> bool:
        for check in others:
            if not check.is_met_by(await run_check(check, bench)):
                return True
        return False

    if not lines or not (suite or others):
        return None, ""
    mutation = await clean.mutate(lines, also=notices if others else None, limit=_MUTANTS)
    if mutation.score is None:
        return None, ""
    tried = len(mutation.killed) + len(mutation.survived)
    told = f"{len(mutation.killed)} of {tried} small wrong changes are noticed"
    doubt = ""
    if mutation.score < _ENOUGH:
        first = mutation.survived[0]
        doubt = f"{told}; not so {first.path}:{first.line}, where {first.change}"
    command = ("mutants:", *sorted(lines))
    return Receipt(command=command, tree=receipts[0].tree, exit_code=int(bool(doubt)), checked=told), doubt


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


def read_verdict(text: str) -> tuple[Outcome, tuple[str, ...]]:
    """Outcome and evidence of what a verifier wrote: the last verdict counts; without evidence none speaks against."""
    found = _VERDICT.findall(text)
    points = tuple(" ".join(point.split()) for point in _POINT.findall(text))
    match found[-1:]:
        case ["PASS"]:
            return "PASS", ()
        case ["FAIL"] if points:
            return "FAIL", points
        case ["FAIL"]:
            return "PARTIAL", ("the verifier said FAIL without anything that could be looked up",)
        case ["PARTIAL"]:
            return "PARTIAL", points
    return "PARTIAL", ("the verifier gave no verdict",)


def _weaker(proof: Verdict, outcome: Outcome, evidence: tuple[str, ...]) -> Verdict:
    """The proof with what was said of it besides; of what was shown to be wrong the worker is told."""
    order: tuple[Outcome, ...] = ("FAIL", "PARTIAL", "PASS")
    return proof.model_copy(
        update={
            "outcome": min(proof.outcome, outcome, key=order.index),
            "evidence": (*proof.evidence, *evidence),
            "mendable": evidence if outcome == "FAIL" else (),
        }
    )
