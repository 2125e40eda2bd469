"""The work of a task by a model that can't drive: our code finds the files, has them written, and keeps what runs best.

A round is one use of a skill, between the events of a call. If it was interrupted, it begins anew with the files as
they were, and the answers that the log has are not asked for again.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from minimax_code.budget import Budget
from minimax_code.contract import Contract
from minimax_code.errors import BudgetError, InputError
from minimax_code.events import AgentStopped, Log, ModelReplied, ToolEnded, ToolIntended
from minimax_code.model import Message, Model, Request, ToolCall
from minimax_code.permissions import Permissions
from minimax_code.skills.answer import Wish
from minimax_code.skills.change import fix, refactor
from minimax_code.skills.checks import Checks, Measured
from minimax_code.skills.document import document
from minimax_code.skills.effort import Effort
from minimax_code.skills.generate import generate
from minimax_code.skills.prompt import prompt_of
from minimax_code.skills.solution import Solution
from minimax_code.skills.sources import localise, that_fit
from minimax_code.skills.write_tests import TestWish, write_tests
from minimax_code.work.checks import complaints, run_checks
from minimax_code.work.frozen import lay
from minimax_code.work.kind import KINDS, Kind, kind_of
from minimax_code.work.metered import MeteredModel
from minimax_code.work.progress import WORKER, Progress
from minimax_code.work.task import Task
from minimax_code.work.worker import within
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.files import CodeFile
from minimax_code.workbench.testrun import is_test

Skill = Literal["fix", "generate", "refactor", "write_tests", "document"]

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
    ended = next((e.event for e in log.recorded if isinstance(e.event, ToolEnded) and e.event.agent == name), None)
    if ended is None:
        await bench.workspace.restore(progress.tree)
        lay(bench.workspace.path, contract.frozen)
        metered = MeteredModel(model, log=log, budget=budget, agent=name)
        role = task.agent.text if task.agent else ""
        kind = kind_of(task.description) or await _asked_kind(task, progress, metered)
        turn = _Turn(
            asked="\n\n".join(text for text in (role, task.text, progress.told) if text),
            kind=kind,
            contract=contract,
            allowed=within(contract, permissions),
            model=metered,
            bench=bench,
            effort=Effort(
                candidates=_CANDIDATES,
                max_tokens=min(_TOKENS, (await model.abilities()).context_tokens // 3),
                calibration=progress.calibration,
            ),
        )
        ended = await _take(turn, log=log, name=name)
    await bench.workspace.restore(ended.tree)
    await log.append(AgentStopped(agent=WORKER, reason="finished", message=ended.output))


async def _asked_kind(task: Task, progress: Progress, model: Model) -> Kind:
    """What a task asks for whose words speak of several things: a model says it that can judge."""
    if progress.calibration is None or not progress.calibration.judges:
        return "behaviour"
    asked = prompt_of("kind", "minimax_code.work", task=task.text)
    reply = await model.reply(Request(messages=(Message(role="user", content=asked),), max_tokens=256, temperature=0.0))
    said = re.findall(rf"\b(?:{'|'.join(KINDS)})\b", reply.content.lower())
    return next((kind for kind in KINDS if said[-1:] == [kind]), "behaviour")


async def _take(turn: _Turn, *, log: Log, name: str) -> ToolEnded:
    """Uses a skill, between the two events of a call."""
    bench, began, before = turn.bench, time.monotonic(), len(log.recorded)
    tree, (skill, paths) = await bench.workspace.snapshot(), await turn.skill()
    call = ToolCall(id=name, name=skill, arguments=json.dumps({"asked": turn.asked, "paths": paths}))
    await log.append(ToolIntended(agent=name, call=call, tree=tree))
    try:
        solution = await turn.solve(skill, paths)
    except BudgetError:
        await bench.workspace.restore(tree)  # from what an answer was tried out on
        raise
    except InputError as error:  # no file fits into the model's window
        solution = Solution(verdict="failed", notes=(str(error),))
    if refused := [file.path for file in solution.files if not turn.may_write(file.path)]:
        await bench.workspace.restore(tree)
        solution = Solution(verdict="failed", notes=(f"{refused[0]} may not be written",))
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


@dataclass(frozen=True, kw_only=True)
class _Turn:
    """What a round has to do, and with what."""

    asked: str
    kind: Kind
    contract: Contract
    allowed: Permissions
    model: Model
    bench: Workbench
    effort: Effort

    async def skill(self) -> tuple[Skill, list[str]]:
        """The skill to use, and on which files: those that the task is about, all of those that may be read."""
        measured = {word for check in self.contract.checks for word in check.command}
        found = await localise(self.bench, self.asked)
        paths = [path for path in found if path not in measured and self._allows(path, "read")]
        python = [path for path in paths if path.endswith(".py") and not is_test(path)]
        match self.kind:
            case "refactor" if paths:
                return "refactor", paths
            case "tests" | "document" if python:
                skill: Skill = "write_tests" if self.kind == "tests" else "document"
                return skill, [path for path in python if path in self.asked] or python
        return ("fix" if paths else "generate"), paths

    async def solve(self, skill: Skill, paths: Sequence[str]) -> Solution:
        """What the skill has come to.

        Raises:
            InputError: no file fits into the model's window.
            ModelError, BudgetError, SandboxError: as they come.
        """
        model, bench, effort = self.model, self.bench, self.effort
        measure = partial(_measure, self.contract) if self.contract.checks else None
        checks = Checks(measure=measure, may_write=self.may_write)
        match skill:
            case "fix":
                problem = f"What is asked for isn't there yet:\n\n{self.asked}"
                return await fix(model, bench, problem, paths=paths, checks=checks, effort=effort)
            case "refactor":
                return await refactor(model, bench, self.asked, paths=paths, checks=checks, effort=effort)
            case "generate":
                shown = tuple(CodeFile(path, text) for path, text in self.contract.frozen.items())
                return await generate(model, bench, Wish(prompt=self.asked, files=shown), checks=checks, effort=effort)
        files, left = await that_fit(model, bench, paths)
        if skill == "write_tests":
            solution = await write_tests(model, bench, files, wish=TestWish(wishes=self.asked), effort=effort)
        else:
            solution = await document(model, bench, files, wishes=self.asked, effort=effort)
        unread = (f"not looked at, for want of room: {', '.join(left)}",) if left else ()
        return solution.model_copy(update={"notes": (*solution.notes, *unread)})

    def may_write(self, path: str) -> bool:
        """Whether an answer's file counts."""
        return self._allows(path, "write", "edit")

    def _allows(self, path: str, *tools: str) -> bool:
        """Whether all of these tools may be called with a path, and nobody has to be asked."""
        return all(self.allowed.decide(tool, path, "files")[0] == "allow" for tool in tools)


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
