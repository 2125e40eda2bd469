"""Who does the work of a task."""

from __future__ import annotations

from collections.abc import Sequence

from minimax_code.agent import run_agent
from minimax_code.briefing import briefing
from minimax_code.budget import Budget
from minimax_code.contract import Contract
from minimax_code.events import AgentStopped, Log, Step
from minimax_code.model import Model
from minimax_code.permissions import Permissions
from minimax_code.skills.calls import CallStyle
from minimax_code.skills.prompt import prompt_of
from minimax_code.tools.delegate import Delegate
from minimax_code.tools.standard import working_tools
from minimax_code.tools.tool import Tool
from minimax_code.work.agent import Agent
from minimax_code.work.progress import WORKER
from minimax_code.work.task import Task
from minimax_code.workbench.bench import Workbench


def brief(task: Task, steps: Sequence[Step]) -> str:
    """What a worker is told first."""
    planned = "\n".join(f"{number}. {step.text}" for number, step in enumerate(steps, start=1))
    return f"{task.text}\n\nThe plan:\n{planned}"


def within(contract: Contract, permissions: Permissions) -> Permissions:
    """Permissions to work on a task: what it is measured by, and what it forbids, is not written."""
    locked = [*contract.frozen, *contract.forbidden]
    return permissions.also([f"deny {tool}({path})" for path in locked for tool in ("write", "edit")])


async def work(
    told: str,
    contract: Contract,
    *,
    model: Model,
    bench: Workbench,
    log: Log,
    budget: Budget,
    permissions: Permissions,
    agent: Agent | None,
    tools: Sequence[Tool] = (),
    call_style: CallStyle | None = None,
) -> AgentStopped:
    """Works on a task until the worker stops; goes on where it was if the log has its beginning.

    Args:
        told: what the worker is told last, and so has to do now.

    Raises:
        StoreError: the log can't be written.
        SandboxError: the sandbox can't be started.
    """
    system, allowed = briefing(bench.workspace.path, role=_role(contract, agent)), within(contract, permissions)
    own = (*working_tools(), *tools)

    async def start(
        name: str, told: str, bench: Workbench, budget: Budget, tools: Sequence[Tool] = own
    ) -> AgentStopped:
        return await run_agent(
            model, bench, instructions=told, system=system, log=log, budget=budget, permissions=allowed, tools=tools,
            agent=name, call_style=call_style,
        )  # fmt: skip

    return await start(WORKER, told, bench, budget, (*own, Delegate(start)))


def _role(contract: Contract, agent: Agent | None) -> str:
    return prompt_of(
        "worker",
        "minimax_code.work",
        agent=f"{agent.text} " if agent else "",
        checks="\n".join(f"- `{check.text}`" for check in contract.checks) or "- nothing yet",
        frozen=", ".join(contract.frozen) or "none",
        forbidden=", ".join(contract.forbidden) or "none",
    )
