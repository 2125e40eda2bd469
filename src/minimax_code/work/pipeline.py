"""The work of a task by a model that can't drive: our code finds the files, has them written, and keeps what runs best.

A round is one use of a skill, between the events of a call. If it was interrupted, it begins anew with the files as
they were, and the answers that the log has are not asked for again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial

from minimax_code.budget import Budget
from minimax_code.contract import Contract
from minimax_code.errors import BudgetError, InputError
from minimax_code.events import AgentStopped, Log, ModelReplied, ToolEnded, ToolIntended
from minimax_code.model import Model, ToolCall
from minimax_code.permissions import Permissions
from minimax_code.skills.answer import Wish
from minimax_code.skills.change import fix
from minimax_code.skills.checks import Checks, Measured
from minimax_code.skills.effort import Effort
from minimax_code.skills.generate import generate
from minimax_code.skills.solution import Solution
from minimax_code.skills.sources import localise
from minimax_code.work.checks import complaints, run_checks
from minimax_code.work.frozen import lay
from minimax_code.work.metered import MeteredModel
from minimax_code.work.progress import WORKER, Progress
from minimax_code.work.task import Task
from minimax_code.work.worker import within
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.files import CodeFile

PIPELINE = "pipeline"
"""What it is called in the events, with the round."""

_CANDIDATES = 8  # answers a round; the first that passes all checks ends it
_TOKENS = 2048  # of an answer, where a third of the window is as much


async def work_through(
    task: Task,
    contract: Contract,
    progress: Progress,
    *,
    model: Model,
    bench: Workbench,
    log: Log,
    budget: Budget,
    permissions: Permissions,
) -> None:
    """Works on a task for one round; the log has its end.

    Raises:
        ModelError: the model can't be asked.
        BudgetError: there is nothing left to ask it with.
        SandboxError: the sandbox can't be started.
    """
    name = f"{PIPELINE} {progress.rounds + 1}"
    role = task.agent.text if task.agent else ""
    asked = "\n\n".join(text for text in (role, task.text, progress.told) if text)
    allowed = within(contract, permissions)
    ended = next((e.event for e in log.recorded if isinstance(e.event, ToolEnded) and e.event.agent == name), None)
    if ended is None:
        await bench.workspace.restore(progress.tree)
        lay(bench.workspace.path, contract.frozen)
        checks = Checks(
            measure=partial(_measure, contract) if contract.checks else None,
            may_write=lambda path: _allows(allowed, path, "write", "edit"),
        )
        context_tokens = (await model.abilities()).context_tokens
        effort = Effort(
            candidates=_CANDIDATES,
            max_tokens=min(_TOKENS, context_tokens // 3),
            calibration=progress.calibration,
        )
        metered = MeteredModel(model, log=log, budget=budget, agent=name)
        named = {word for check in contract.checks for word in check.command}
        found = await localise(bench, asked)
        paths = [path for path in found if path not in named and _allows(allowed, path, "read")]
        ended = await _write(asked, paths, contract, checks, effort, model=metered, bench=bench, log=log, name=name)
    await bench.workspace.restore(ended.tree)
    await log.append(AgentStopped(agent=WORKER, reason="finished", message=ended.output))


async def _write(
    asked: str,
    paths: Sequence[str],
    contract: Contract,
    checks: Checks,
    effort: Effort,
    *,
    model: Model,
    bench: Workbench,
    log: Log,
    name: str,
) -> ToolEnded:
    """Has files written, or changed where there are some, between the two events of a call."""
    tree, began, before = await bench.workspace.snapshot(), time.monotonic(), len(log.recorded)
    skill = "fix" if paths else "generate"
    call = ToolCall(id=name, name=skill, arguments=json.dumps({"asked": asked, "paths": list(paths)}))
    await log.append(ToolIntended(agent=name, call=call, tree=tree))
    try:
        if paths:
            problem = f"What is asked for isn't there yet:\n\n{asked}"
            solution = await fix(model, bench, problem, paths=paths, checks=checks, effort=effort)
        else:
            shown = tuple(CodeFile(path, text) for path, text in contract.frozen.items())
            solution = await generate(model, bench, Wish(prompt=asked, files=shown), checks=checks, effort=effort)
    except BudgetError:
        await bench.workspace.restore(tree)  # from what an answer was tried out on
        raise
    except InputError as error:  # no file fits into the model's window
        solution = Solution(verdict="failed", notes=(str(error),))
    models = sum(e.event.seconds for e in log.recorded[before:] if isinstance(e.event, ModelReplied))
    ended = ToolEnded(
        agent=name,
        call_id=call.id,
        output=f"{solution.verdict}, by the best of {solution.num_candidates} answers: {'; '.join(solution.notes)}",
        failed=solution.verdict == "failed",
        tree=await bench.workspace.snapshot(),
        seconds=max(0.0, time.monotonic() - began - models),
    )
    await log.append(ended)
    return ended


def _allows(permissions: Permissions, path: str, *tools: str) -> bool:
    """Whether all of these tools may be called with a path, and nobody has to be asked."""
    return all(permissions.decide(tool, path, "files")[0] == "allow" for tool in tools)


async def _measure(contract: Contract, bench: Workbench) -> Measured:
    """The contract's checks, each test of them counted."""
    tree = await bench.workspace.snapshot()
    receipts = await run_checks(contract, bench)
    wrong = complaints(contract, receipts, tree)
    cases = [case.outcome == "passed" for receipt in receipts for case in receipt.cases]
    num_passed = sum(cases) + len(receipts) - len(contract.unmet(receipts, tree))
    num_checks = len(cases) + len(receipts)
    return Measured(
        num_checks=num_checks,
        num_passed=num_passed if wrong else num_checks,
        failure=wrong[0] if wrong else "",
        receipts=receipts,
    )
