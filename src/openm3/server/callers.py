"""Who calls: the holder of a key, or the one anonymous caller of an open server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from openm3.engine.fairness import Share
from openm3.server.meter import Meter, OpenMeter, Reservation


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who asks, and what meters it.

    Attributes:
        key_id: of the key; None: anonymous.
        plan: the name of its plan.
        weight: its share of the engine while others wait, relative to theirs.
        meter: admits what it asks for.
        may_use: whether it may ask for a model of this name.
    """

    key_id: str | None = None
    plan: str = "open"
    weight: float = 1.0
    meter: Meter = field(default_factory=OpenMeter)
    may_use: Callable[[str], bool] = lambda _: True

    @property
    def share(self) -> Share:
        """Its share of the engine."""
        return Share(self.key_id or "", self.weight)

    @asynccontextmanager
    async def reserve(
        self, model: str, prompt_tokens: int, answer_tokens: int | None = 0, num_answers: int = 1
    ) -> AsyncGenerator[Reservation, None]:
        """Admits work, and settles it at the end of the block, however that is reached.

        Args:
            model: the name that the caller knows.
            prompt_tokens: what is read.
            answer_tokens: the most that will be generated, all answers together; None: the caller didn't say.
            num_answers: how many they are.

        Raises:
            ApiError: a limit of the caller's plan forbids it.
        """
        reservation = await self.meter.reserve(self, model, prompt_tokens, answer_tokens, num_answers)
        try:
            yield reservation
        finally:  # also when the client has gone away and the task is cancelled
            await asyncio.shield(reservation.settle())


ANONYMOUS = Caller()
"""Everybody, where no key is needed."""


def caller_of(request: Request) -> Caller:
    """Who sent a request, as was found out before its body was read."""
    caller: Caller = getattr(request.state, "caller", ANONYMOUS)
    return caller


CurrentCaller = Annotated[Caller, Depends(caller_of)]
"""A parameter of an endpoint: who calls it."""

SECURITY = (
    Security(HTTPBearer(auto_error=False, description="A key of this server; an open one needs none.")),
    Security(APIKeyHeader(name="x-api-key", auto_error=False, description="The same, as Anthropic's clients send it.")),
)
"""Where a key is sent, for the API's document."""
