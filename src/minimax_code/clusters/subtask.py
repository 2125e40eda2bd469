"""A part of a task that one agent can do, and what came of it."""

from __future__ import annotations

from typing import Any, TypedDict

from pydantic import ConfigDict, Field, ValidationError

from minimax_code.record import Record


class Subtask(Record):
    """A sub-task, as a model writes it in JSON.

    Attributes:
        dependencies: ids of those that have to succeed before.
        estimated_duration: in hours.
        required_capabilities: what the agent should know about.
        checks: commands that have to succeed; without any the agent writes a test first.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=False)

    id: str = Field(min_length=1, coerce_numbers_to_str=True)
    description: str = Field(min_length=1)
    dependencies: tuple[str, ...] = ()
    estimated_duration: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    required_capabilities: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()


class SubtaskResult(TypedDict):
    """What came of a sub-task.

    `agent_id` is None where nobody could begin with it; `result` is what the work returned, `causes` what went wrong
    in each attempt, or why there was none.
    """

    task_id: str
    agent_id: str | None
    success: bool
    result: dict[str, Any]
    attempts: int
    causes: list[str]


def field_of(error: ValidationError) -> str:
    """The first field that is wrong."""
    return ".".join(map(str, error.errors(include_url=False)[0]["loc"])) or "value"


def reason_of(error: ValidationError) -> str:
    """What is wrong with it."""
    reason = str(error.errors(include_url=False)[0]["msg"])
    return reason[:1].lower() + reason[1:]
