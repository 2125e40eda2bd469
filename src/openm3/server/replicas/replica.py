"""`Replica`: one of several engines, somewhere else."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Protocol

from openm3.engine.fairness import Share
from openm3.engine.output import Event
from openm3.engine.params import SamplingParams
from openm3.engine.prompt import Prompt

if TYPE_CHECKING:
    from openm3.engine.service import ServiceStatus


class ReplicaLostError(Exception):
    """A replica has ended, or its machine has, or it can't be reached; the message says which and why."""


class Replica(Protocol):
    """An engine in another process.

    It comes back by itself after a failure, with an empty cache.
    """

    @property
    def name(self) -> str:
        """Its number, for logs and metrics, which tell no addresses."""

    async def status(self) -> ServiceStatus:
        """How busy it is; waits until it is ready.

        Raises:
            ReplicaLostError: it isn't there.
        """

    def stream(
        self, prompt: Prompt | Sequence[int], params: SamplingParams, share: Share
    ) -> AsyncGenerator[Event, None]:
        """As of `Backend`.

        Raises:
            InputError: the request can't be served.
            ReplicaLostError: it is gone.
        """

    async def restart(self) -> None:
        """Ends its process, which doesn't answer any more, and begins another one."""

    async def aclose(self) -> None:
        """Cancels what runs and ends it for good; one that is gone already is no error."""
