"""From a task to a result: contract, plan, work, checks, an independent verifier, and again where something is wrong.

What comes next is read from the log, each time. So a task that was interrupted, by a crash or for want of money, goes
on when it is executed again with the same log and place.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from minimax_code.budget import Budget, Price
from minimax_code.contract import Contract
from minimax_code.errors import BudgetError, InputError, ModelError
from minimax_code.events import Checked, ContractFrozen, Log, PlanChanged, Step, TaskBegan, TaskEnded, Told, Verified
from minimax_code.model import Model
from minimax_code.permissions import Permissions
from minimax_code.tools.tool import Tool
from minimax_code.transcript import spent
from minimax_code.work.agree import agree
from minimax_code.work.checks import complaints, run_checks
from minimax_code.work.frozen import lay
from minimax_code.work.lines import created_files
from minimax_code.work.metered import MeteredModel
from minimax_code.work.pipeline import work_through
from minimax_code.work.plan import make_plan
from minimax_code.work.progress import RESUMED, WORKER, Progress, usage_of
from minimax_code.work.result import Cost, State, TaskResult
from minimax_code.work.strategy import CALIBRATOR, STRATEGIES, Wanted, choose
from minimax_code.work.task import Task
from minimax_code.work.timely import TimelySandbox
from minimax_code.work.verifier import VERIFIER, Work, verify
from minimax_code.work.worker import brief, work
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.interpreter import python_of
from minimax_code.workbench.sandbox import Sandbox, find_sandbox
from minimax_code.workbench.workspace import Workspace

ROUNDS = 3
"""How often a worker may hand in its work."""


async def execute(
    task: Task,
    *,
    model: Model,
    folder: Path | None,
    place: Path,
    log: Log,
    budget: Budget | None = None,
    price: Price | None = None,
    permissions: Permissions | None = None,
    sandbox: Sandbox | None = None,
    tools: Sequence[Tool] = (),
    verifier: Model | None = None,
    rounds: int = ROUNDS,
    strategy: Wanted = "auto",
    calibrations: Path | None = None,
    python: str | None = None,
) -> TaskResult:
    """Does a task on a copy of a folder, which itself stays as it is.

    Args:
        folder: the user's; None to begin with nothing.
        place: where the copy is kept, for an interrupted task to go on and for the result to be taken from; an empty
            folder, or one that isn't there yet. It is the caller's to remove.
        log: of this task alone.
        budget: what it may use besides its own constraints.
        price: what the model costs; needed where the task limits money.
        tools: the worker's besides those that every one has.
        verifier: a model for the verification; the same one if None.
        strategy: "auto": that of the model's calibration; a task that has one keeps it.
        calibrations: the folder in which those of models are kept; None keeps none.
        python: the interpreter that has what the folder's code needs; by default that of its `.venv`, or this one.

    Raises:
        InputError: the task has limits that can't be held, or another strategy already.
        ModelError: the model can't be asked. The task can be gone on with; so for the others.
        SandboxError: no sandbox can be started.
        WorkspaceError: the folder can't be copied.
        StoreError: the log can't be written.
    """
    progress = Progress.of(log.recorded)
    if progress.result and progress.result.is_final:
        return progress.result
    if strategy not in STRATEGIES or (progress.strategy and strategy not in ("auto", progress.strategy)):
        there = f"the task is worked on by {progress.strategy}" if progress.strategy else ", ".join(STRATEGIES)
        raise InputError("strategy", f"{strategy!r} can't be used; {there}")
    own = _budget(task, log, budget, price)
    python = python_of(folder, python)
    workspace = await _workspace(progress, folder, place)
    run = _Execution(
        task=task,
        model=model,
        bench=Workbench(workspace, TimelySandbox(sandbox or find_sandbox(python=python), own), python=python),
        log=log,
        budget=own,
        price=price,
        permissions=permissions or Permissions(),
        tools=tools,
        verifier=verifier or model,
        rounds=rounds,
        strategy=strategy,
        calibrations=calibrations,
    )
    return await run.to_end()


@dataclass(kw_only=True)
class _Execution:
    task: Task
    model: Model
    bench: Workbench
    log: Log
    budget: Budget
    price: Price | None
    permissions: Permissions
    tools: Sequence[Tool]
    verifier: Model
    rounds: int
    strategy: Wanted
    calibrations: Path | None
    has_worked: bool = False  # in this process

    async def to_end(self) -> TaskResult:
        """Step by step, each of which ends with an event."""
        while True:
            progress = Progress.of(self.log.recorded)
            try:
                result = await self._step(progress)
            except BudgetError as error:
                result = await self._end(progress, "budget", str(error))
            if result:
                return result

    async def _step(self, progress: Progress) -> TaskResult | None:
        contract = progress.contract or Contract(checks=())
        match progress.phase:
            case "begin":
                tree = await self.bench.workspace.snapshot()
                task, sandbox = self.task.model_dump(mode="json"), self.bench.sandbox.name
                await self.log.append(TaskBegan(task=task, base=tree, sandbox=sandbox, python=self.bench.python))
            case "strategy":
                chosen = await choose(self.strategy, model=self._metered(CALIBRATOR), cache=self.calibrations)
                await self.log.append(chosen)
            case "contract":
                contract = await agree(self.task, model=self._metered("contract"), bench=self.bench)
                await self.log.append(ContractFrozen(contract=contract))
            case "plan":
                steps = await make_plan(self.task, model=self._metered("planner"), folder=self.bench.workspace.path)
                await self.log.append(PlanChanged(agent=WORKER, steps=tuple(Step(text=step) for step in steps)))
            case "work":
                await self._work(progress, contract)
            case "check" if progress.stopped and progress.stopped.reason in RESUMED and not self.has_worked:
                await self._work(progress, contract)
            case "check":
                await self._check(contract)
            case "verify":
                await self._verify(progress, contract)
            case "judged":
                return await self._judge(progress, contract)
        return None

    async def _work(self, progress: Progress, contract: Contract) -> None:
        self.has_worked = True
        if progress.strategy == "pipeline":
            return await work_through(
                self.task, contract, progress, model=self.model, bench=self.bench, log=self.log, budget=self.budget,
                permissions=self.permissions,
            )  # fmt: skip
        lay(self.bench.workspace.path, contract.frozen)
        stopped = await work(
            progress.told or brief(self.task, progress.steps),
            contract,
            model=self.model,
            bench=self.bench,
            log=self.log,
            budget=self.budget,
            permissions=self.permissions,
            agent=self.task.agent,
            tools=self.tools,
            call_style=progress.calibration.call_style if progress.calibration else None,
        )
        if stopped.reason == "failed":
            raise ModelError(stopped.message)

    async def _check(self, contract: Contract) -> None:
        lay(self.bench.workspace.path, contract.frozen)
        tree = await self.bench.workspace.snapshot()
        receipts = await run_checks(contract, self.bench)
        await self.bench.workspace.restore(tree)  # what the checks wrote is no part of the work
        await self.log.append(Checked(tree=tree, receipts=receipts))

    async def _verify(self, progress: Progress, contract: Contract) -> None:
        assert progress.checked
        tree, workspace, known = progress.checked.tree, self.bench.workspace, progress.calibration
        judges = progress.strategy == "agent" or known is None or known.judges or self.verifier is not self.model
        work = Work(
            task=self.task,
            contract=contract,
            base=progress.base,
            tree=tree,
            changed=await workspace.changed_files(progress.base, tree),
            diff=await workspace.diff(progress.base, tree),
        )
        verdict = await verify(
            work,
            self.bench,
            model=self.verifier if judges else None,
            log=self.log,
            budget=self.budget,
            agent=f"{VERIFIER} {progress.rounds}",
        )
        await self.log.append(Verified(verdict=verdict))

    async def _judge(self, progress: Progress, contract: Contract) -> TaskResult | None:
        """The end, or what the worker is told of what it has handed in."""
        assert progress.checked and progress.stopped
        verdict, stopped = progress.verdict, progress.stopped
        wrong = complaints(contract, progress.checked.receipts, progress.checked.tree)
        if verdict and verdict.outcome == "PASS":
            return await self._end(progress, "passed")
        if stopped.reason in ("budget", "needs_input"):
            return await self._end(progress, stopped.reason, stopped.message)
        if stopped.reason == "stuck" and wrong:
            return await self._end(progress, "stuck", stopped.message)
        points = (*wrong, *(verdict.mendable if verdict else ()))
        if progress.rounds >= self.rounds or not points:
            return await self._end(progress, "failed" if wrong else "partial")
        told = "\n\n".join(f"- {point}" for point in points)
        text = f"Round {progress.rounds} of {self.rounds} was looked at, and it isn't done yet:\n\n{told}"
        await self.log.append(Told(agent=WORKER, text=text))
        return None

    async def _end(self, progress: Progress, state: State, *issues: str) -> TaskResult:
        result = await self._result(progress, state, issues)
        await self.log.append(TaskEnded(result=result.model_dump(mode="json")))
        return result

    async def _result(self, progress: Progress, state: State, issues: tuple[str, ...]) -> TaskResult:
        workspace = self.bench.workspace
        checked, verdict, contract = progress.checked, progress.verdict, progress.contract
        tree = checked.tree if checked else await workspace.snapshot()
        base = progress.base or tree
        diff = (await workspace.patch(base, tree)).decode()
        created = created_files(diff)
        red = complaints(contract, checked.receipts, tree) if contract and checked else ()
        return TaskResult(
            state=state,
            strategy=progress.strategy,
            tree=tree,
            diff=diff,
            files_created=created,
            files_changed=tuple(path for path in await workspace.changed_files(base, tree) if path not in created),
            contract=contract,
            verdict=verdict,
            receipts=(*(checked.receipts if checked else ()), *(verdict.receipts if verdict else ())),
            issues=(*issues, *(contract.notes if contract else ()), *red, *(verdict.evidence if verdict else ())),
            cost=self._cost(progress),
        )

    def _cost(self, progress: Progress) -> Cost:
        calls, usage = usage_of(self.log.recorded)
        seconds = (datetime.now(UTC) - progress.began).total_seconds() if progress.began else 0.0
        money = self.budget.price.of(usage) if self.price else None
        return Cost(calls=calls, usage=usage, seconds=seconds, money=money)

    def _metered(self, agent: str) -> MeteredModel:
        return MeteredModel(self.model, log=self.log, budget=self.budget, agent=agent)


async def _workspace(progress: Progress, folder: Path | None, place: Path) -> Workspace:
    if progress.base:
        return await Workspace.open(place)
    if (place / "shadow.git").is_dir():  # of a process that ended before it had written down that it began
        shutil.rmtree(place)
    return await Workspace.create(folder, place)


def _budget(task: Task, log: Log, parent: Budget | None, price: Price | None) -> Budget:
    """The task's own limits within those of the parent, less what it has used before it was interrupted."""
    limits = task.limits
    if "money" in limits and price is None:
        raise InputError(
            "constraints.budget_limit", "limits money, and nobody has said what the model costs; set `price`"
        )
    return (parent or Budget()).child(
        calls=_whole(limits.get("calls")),
        tokens=_whole(limits.get("tokens")),
        seconds=limits.get("seconds"),
        money=limits.get("money"),
        price=price,
        spent=spent(log.recorded),
    )


def _whole(limit: float | None) -> int | None:
    return None if limit is None else int(limit)
