"""How a cluster works, by the names that its users give."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal, Self

from pydantic import Field, ValidationError

from minimax_code.clusters.subtask import field_of, reason_of
from minimax_code.errors import InputError
from minimax_code.record import Record


class ClusterConfig(Record):
    """A cluster's configuration.

    Attributes:
        max_agents: how many it may have.
        execution_mode: "sequential" does one sub-task at a time.
        checkpoint_frequency: seconds of work after which a checkpoint is marked in the log. What can be gone on with
            doesn't depend on it: every sub-task that has ended is kept.
        auto_retry: whether a sub-task that failed is tried again.
        max_retries: how often.
    """

    max_agents: int = Field(default=100, ge=1)
    execution_mode: Literal["parallel", "sequential"] = "parallel"
    checkpoint_frequency: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    auto_retry: bool = True
    max_retries: int = Field(default=3, ge=0)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """As given.

        Raises:
            InputError: a name isn't known, or a value can't be used.
        """
        for name in values:
            if name not in cls.model_fields:
                near = get_close_matches(str(name), cls.model_fields, n=1) or [", ".join(cls.model_fields)]
                raise InputError(f"config.{name}", f"is not understood; there is {near[0]}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InputError(f"config.{field_of(error)}", reason_of(error)) from error

    @property
    def attempts(self) -> int:
        """At each sub-task, at most."""
        return 1 + self.max_retries if self.auto_retry else 1
