"""What meters work: it is reserved before it begins and settled when it has ended, however it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from openm3.server.callers import Caller


class Reservation(Protocol):
    """Work that was admitted and may go on."""

    @property
    def answer_tokens(self) -> int | None:
        """The most tokens that may be generated, all answers together; None: as many as the model can."""

    async def spend(self, prompt_tokens: int, answer_tokens: int) -> None:
        """Says what was used so far, in all; called before what was generated is handed on.

        Raises:
            ApiError: the work may not go on.
        """

    async def settle(self) -> None:
        """Charges what was spent and gives the rest back."""


class Meter(Protocol):
    """Admits work by the limits of its caller."""

    async def reserve(
        self, caller: Caller, model: str, prompt_tokens: int, answer_tokens: int | None, num_answers: int
    ) -> Reservation:
        """Admits work that will use at most so many tokens; use `Caller.reserve`, which settles too.

        Raises:
            ApiError: a limit of the caller's plan forbids it.
        """


class OpenMeter:
    """Admits everything and counts nothing."""

    async def reserve(
        self, caller: Caller, model: str, prompt_tokens: int, answer_tokens: int | None, num_answers: int
    ) -> Reservation:
        """Admits it."""
        return _Unlimited()


class _Unlimited:
    answer_tokens = None

    async def spend(self, prompt_tokens: int, answer_tokens: int) -> None:
        pass

    async def settle(self) -> None:
        pass
