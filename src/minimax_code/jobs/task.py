"""The work of a job that is a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from minimax_code.budget import Amount, Budget
from minimax_code.errors import InputError
from minimax_code.events import Log, TaskBegan
from minimax_code.jobs.carried import CarriedLog
from minimax_code.jobs.place import take_place
from minimax_code.jobs.spec import JobSpec
from minimax_code.jobs.worker import Assignment
from minimax_code.model import Model
from minimax_code.permissions import Asker, Permissions
from minimax_code.remote import ServerModel
from minimax_code.skills.calibration import default_cache
from minimax_code.tools.mcp import mcp_tools
from minimax_code.tools.tool import Tool
from minimax_code.work.execute import execute
from minimax_code.work.task import Task


async def do_task(
    assignment: Assignment,
    log: Log,
    *,
    root: Path,
    model: Model | None = None,
    ask: Asker | None = None,
    tools: Sequence[Tool] | None = None,
    mcp_env: Mapping[str, Mapping[str, str]] = {},
) -> None:
    """Goes on with a task until it ends.

    Args:
        root: the folder of the store's jobs.
        model: instead of the one that the job names.
        ask: asks the user, where one is there.
        tools: the worker's besides those that every one has; by default those of the job's servers.
        mcp_env: the environment of each server, by its name.

    Raises:
        CodeError: it can't go on now.
    """
    spec = JobSpec.model_validate(assignment.spec, strict=False)
    task = Task(**spec.task)
    has_begun = any(isinstance(one.event, TaskBegan) for one in log.recorded)
    if spec.folder and not has_begun and not Path(spec.folder).is_dir():
        raise InputError("folder", f"{spec.folder} is not there any more")
    place = await take_place(root / assignment.job, assignment.owner, log.recorded, assignment.packs)
    named = spec.servers if tools is None else ()
    async with mcp_tools([server.having(mcp_env.get(server.name, {})) for server in named]) as own:
        await execute(
            task,
            model=model or ServerModel(spec.base_url, model=spec.model, context_tokens=spec.context_tokens),
            folder=Path(spec.folder) if spec.folder else None,
            place=place,
            log=CarriedLog(log, assignment.packs, place) if assignment.packs else log,
            # Days are those of work: neither a pause nor a machine that was off uses them up.
            budget=Budget(
                seconds=task.limits.get("seconds"),
                spent=Amount(seconds=assignment.worked_s),
                clock=assignment.clock.monotonic,
            ),
            price=spec.price,
            permissions=Permissions.of(*spec.rules, ask=ask),
            tools=own if tools is None else tools,
            strategy=spec.strategy,
            calibrations=default_cache(),
            python=spec.python,
        )
