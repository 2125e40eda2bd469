"""What is written down of a job when it is started: all that a worker needs, but for the key of the model's server."""

from __future__ import annotations

from typing import Any, Self
from urllib.parse import urlsplit

from minimax_code.budget import Price
from minimax_code.errors import InputError
from minimax_code.record import Record
from minimax_code.work.strategy import Wanted
from minimax_code.work.task import Task


class JobSpec(Record):
    """A job to do.

    Attributes:
        task: as a `Task` has it, without its callback.
        folder: the user's, which is copied; None to begin with nothing.
        base_url, model, context_tokens: as of `ServerModel`; the key is given to workers in their environment.
        rules: permissions, as `Permissions` reads them.
        strategy: as `execute` takes it.
        checkpoint_hours: how often a checkpoint is marked.
    """

    task: dict[str, Any]
    folder: str | None = None
    base_url: str | None = None
    model: str | None = None
    context_tokens: int | None = None
    rules: tuple[str, ...] = ()
    strategy: Wanted = "auto"
    price: Price | None = None
    checkpoint_hours: float | None = None

    @classmethod
    def of(cls, task: Task, **fields: Any) -> Self:
        """The job that a task becomes; `fields` are the other attributes.

        Raises:
            InputError: the address of the server has a password in it, which would be stored.
        """
        if (url := fields.get("base_url")) and urlsplit(url).password:
            raise InputError("base_url", "has a password in it, which would be stored with the job; give it as api_key")
        return cls(task=task.model_dump(mode="json"), checkpoint_hours=task.checkpoint_frequency_hours, **fields)
