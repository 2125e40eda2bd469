"""A task, as its user gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError

from minimax_code.contract import Check
from minimax_code.errors import InputError
from minimax_code.record import Record
from minimax_code.work.agent import Agent
from minimax_code.work.amounts import limits_of, limits_text, percent_of, seconds_of
from minimax_code.work.checks import check_of

CONSTRAINTS = ("budget_limit", "forbidden_paths", "max_execution_time", "min_coverage")


def _read(checks: object) -> object:
    """Checks that were stored, as JSON has them; anything else is left to the type."""
    if not isinstance(checks, list | tuple):
        return checks
    return [Check.model_validate(check, strict=False) if isinstance(check, Mapping) else check for check in checks]


class Task(Record):
    """A task for an agent.

    Args:
        description: what is to be done.
        requirements: what has to hold of it, one sentence each.
        constraints: "max_execution_time" ("30 minutes"), "budget_limit" ("100 API calls", "2M tokens", "$5"),
            "forbidden_paths" (a list of paths or patterns), "min_coverage" (percent of the changed lines). Any other
            name is refused.
        checks: what has to hold: commands that have to succeed ("pytest tests/test_cart.py"), or to end otherwise
            ("exit 2: python cart.py --wrong"), code that has to be there ("api: cart:total(prices, tax=0)"), and files
            ("file: docs/cart.md 'How to pay'"). Without any the agent first writes a test that fails without the work.
        mode: "interactive" is refused by a client that has nobody to ask.
        max_duration_days: of an autonomous task.
        checkpoint_frequency_hours: how often an autonomous task tells its callback of a checkpoint. What can be
            resumed doesn't depend on it: that is every step.
        agent: who works on it, as the model is told.
        notification_callback: called with each update; it lives in this process and is no part of what is stored.

    Raises:
        InputError: a field has a value that can't be used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, arbitrary_types_allowed=True)

    description: str
    requirements: Annotated[Sequence[str], AfterValidator(tuple)] = ()
    constraints: Mapping[str, Any] = {}
    checks: Annotated[Sequence[str | Check], BeforeValidator(_read), AfterValidator(tuple)] = ()
    mode: Literal["autonomous", "interactive"] = "autonomous"
    max_duration_days: float | None = Field(default=None, gt=0)
    checkpoint_frequency_hours: float | None = Field(default=None, gt=0)
    agent: Agent | None = None
    notification_callback: Callable[[Any], object] | None = Field(default=None, exclude=True, repr=False)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "task"
            raise InputError(field, first["msg"][:1].lower() + first["msg"][1:]) from error
        if not self.description.strip():
            raise InputError("description", "is empty; say what is to be done")
        for field, texts in (("description", [self.description]), ("requirements", self.requirements)):
            if any("\ud800" <= letter <= "\udfff" for text in texts for letter in text):  # bytes of the command line
                raise InputError(field, "has bytes that are no text; write it in UTF-8")
        for name in self.constraints:
            if name not in CONSTRAINTS:
                near = get_close_matches(str(name), CONSTRAINTS, n=1) or [", ".join(CONSTRAINTS)]
                raise InputError(f"constraints.{name}", f"is not understood; there is {near[0]}")
        _ = self.limits, self.forbidden, self.min_coverage, self.commands  # what can't be used is refused now

    @property
    def limits(self) -> dict[str, float]:
        """What it may cost, by the names of a budget's limits: "seconds", "calls", "tokens", "money"."""
        limits: dict[str, float] = {}
        if "budget_limit" in self.constraints:
            limits |= limits_of("constraints.budget_limit", self.constraints["budget_limit"])
        if "max_execution_time" in self.constraints:
            limits["seconds"] = seconds_of("constraints.max_execution_time", self.constraints["max_execution_time"])
        if self.max_duration_days is not None:
            limits["seconds"] = min(self.max_duration_days * 86400, limits.get("seconds", float("inf")))
        return limits

    def with_more(self, *, budget: str | None = None, time: str | None = None) -> Self:
        """The same task with higher limits: what is given comes on top of those that it has.

        Raises:
            InputError: it is no budget or no duration, or of something that the task has no limit on.
        """
        constraints, days = dict(self.constraints), self.max_duration_days
        if budget is not None:
            name = "budget_limit"
            allowed = limits_of(f"constraints.{name}", constraints[name]) if name in constraints else {}
            for kind, amount in limits_of("budget", budget).items():
                if kind not in allowed:
                    raise InputError("budget", f"the task has no limit on {kind}, so more of them change nothing")
                allowed[kind] += amount
            constraints[name] = limits_text(allowed)
        if time is not None:
            name, seconds = "max_execution_time", seconds_of("time", time)
            if "seconds" not in self.limits:
                raise InputError("time", "the task has no limit on time, so more of it changes nothing")
            if name in constraints:
                constraints[name] = f"{seconds_of(f'constraints.{name}', constraints[name]) + seconds:.3f} seconds"
            days = None if days is None else days + seconds / 86400
        return self.model_copy(update={"constraints": constraints, "max_duration_days": days})

    @property
    def forbidden(self) -> tuple[str, ...]:
        """Paths, or patterns of paths, that may not be touched."""
        paths = self.constraints.get("forbidden_paths", ())
        if isinstance(paths, str) or not all(isinstance(path, str) and path for path in paths):
            raise InputError("constraints.forbidden_paths", f"{paths!r} is no list of paths")
        return tuple(paths)

    @property
    def min_coverage(self) -> float | None:
        """Percent of the changed lines that tests have to run."""
        if "min_coverage" not in self.constraints:
            return None
        return percent_of("constraints.min_coverage", self.constraints["min_coverage"])

    @property
    def commands(self) -> tuple[Check, ...]:
        """Its checks, those that are text as `check_of` reads it."""
        return tuple(
            check if isinstance(check, Check) else check_of(check, f"checks.{i}") for i, check in enumerate(self.checks)
        )

    @property
    def text(self) -> str:
        """Description and requirements, as a model reads them."""
        lines = [self.description.strip()]
        if self.requirements:
            lines += ["", "Requirements:", *(f"- {requirement}" for requirement in self.requirements)]
        return "\n".join(lines)
