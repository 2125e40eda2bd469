"""What a job's user is told while it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from minimax_code import events as e


@dataclass(frozen=True, kw_only=True)
class Update:
    """News of a job. The same `event_id` means the same news: after a crash one may come a second time.

    Attributes:
        phase: of the work, once the event has happened.
        progress: percent, as in `JobStatus`.
    """

    event_id: str
    timestamp: datetime
    phase: str
    message: str
    progress: float


def message_of(event: e.Event) -> str:
    """An event in words; "" for one of the many that only the log is for."""
    match event:
        case e.WorkerStarted(token=token):
            return "a worker goes on with it" if token > 1 else "a worker has begun"
        case e.WorkerStopped(reason="failed", message=message):
            return f"interrupted: {message}"
        case e.WorkerStopped(reason=reason):
            return reason
        case e.CheckpointReached(hours=hours, tree=tree):
            return f"checkpoint after {hours:.1f} hours of work, files {tree[:12] or 'unchanged'}"
        case e.ContractFrozen(contract=contract):
            return f"{len(contract.checks)} checks are set, by the {contract.origin}"
        case e.PlanChanged(steps=steps):
            return f"{sum(step.state == 'done' for step in steps)} of {len(steps)} steps are done"
        case e.StuckSeen(rule=rule):
            return f"stuck: {rule}"
        case e.AgentStopped(reason=reason, message=message) if reason != "finished":
            return f"{reason}: {message}"
        case e.Verified(verdict=verdict):
            return f"the verifier says {verdict.outcome}"
        case e.TaskEnded(result=result):
            return f"ended: {result.get('state', 'unknown')}"
        case _:
            return ""
