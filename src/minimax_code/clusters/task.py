"""How agents do errands where nothing else is said: each as a task, with a contract, checks and a verifier."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from minimax_code.clusters.errand import Errand, Outcome
from minimax_code.clusters.files import diffs_of, with_diffs
from minimax_code.events import MemoryLog
from minimax_code.remote import ServerModel
from minimax_code.skills.calibration import default_cache
from minimax_code.work.agent import Agent
from minimax_code.work.execute import execute
from minimax_code.work.result import TaskResult
from minimax_code.work.task import Task
from minimax_code.workbench.interpreter import python_of


async def do_task(errand: Errand) -> Outcome:
    """Does an errand on a copy of its files, to which the changes of the sub-tasks before it were made.

    The model is that of the server which the environment names, by the agent's name of it. The result has the
    `TaskResult` but for its events; its `diff` is what this sub-task alone has changed.

    Raises:
        CodeError: it can't be done now.
    """
    agent = errand.agent
    who = Agent(name=agent.name, role=agent.role, expertise=agent.capabilities)
    task = Task(description=errand.text, checks=errand.subtask.checks, agent=who)
    model = ServerModel(model=agent.model)
    with TemporaryDirectory(prefix="minimax-code-") as place:
        folder = await with_diffs(errand.folder, diffs_of(errand.inputs), Path(place) / "before")
        try:
            result = await execute(
                task,
                model=model,
                folder=folder,
                place=Path(place) / "work",
                log=MemoryLog(),
                strategy=agent.strategy,
                calibrations=default_cache(),
                python=python_of(Path(errand.folder) if errand.folder else None),
            )
        finally:
            await model.close()
    told = result.model_dump(mode="json") | {"summary": _summary(errand, result)}
    return Outcome(success=result.success, result=told, cause="" if result.success else str(result))


def _summary(errand: Errand, result: TaskResult) -> str:
    files = ", ".join(result.deliverables) or "nothing"
    return f"{errand.subtask.description.strip()} (changed {files}; {result.tests_passed} tests pass)"
