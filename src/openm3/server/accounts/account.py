"""One caller's account: what meters its requests, by the ledger."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from datetime import date
from functools import partial

from openm3.server.accounts.allowance import Allowance
from openm3.server.accounts.database import Database
from openm3.server.accounts.ledger import WINDOW, Entry, Ledger, LimitError, UsageRow
from openm3.server.accounts.plans import Plan
from openm3.server.callers import Caller
from openm3.server.errors import ApiError

# Of the codes of `LimitError` that waiting doesn't help.
_STATUS = {"model_not_allowed": 403, "context_length_exceeded": 400}


class Account:
    """The meter of one HTTP request's caller.

    Attributes:
        allowance: what is left, as far as is known; None: it has to be looked at.
    """

    def __init__(self, database: Database, ledger: Ledger, key_id: str, plan: Plan) -> None:
        self._database, self._ledger, self._key_id, self._plan = database, ledger, key_id, plan
        self.allowance: Allowance | None = None

    async def reserve(
        self, caller: Caller, model: str, prompt_tokens: int, answer_tokens: int | None, num_answers: int
    ) -> _Reservation:
        """Admits work, as `Meter.reserve`.

        Raises:
            ApiError: 429, with `retry-after`; 403 for a model and 400 for a length that the plan doesn't have.
        """
        asked = (self._key_id, self._plan, model, prompt_tokens, answer_tokens, num_answers)
        try:
            entry = await self._database.run(self._ledger.reserve, *asked)
        except LimitError as error:
            headers = None if error.retry_s is None else {"retry-after": str(math.ceil(error.retry_s))}
            raise ApiError(_STATUS.get(error.code, 429), str(error), code=error.code, headers=headers) from error
        self.allowance = entry.allowance
        return _Reservation(self, entry)

    async def extend(self, entry: Entry, granted: int) -> None:
        """Sees that so many tokens of an answer are granted.

        Raises:
            ApiError: the ledger took this process for dead, and has settled the request.
        """
        if not await self._database.run(self._ledger.extend, entry, granted):
            message = "the server lost the reservation of this request; what was generated is charged, ask again"
            raise ApiError(503, message, code="reservation_lost")

    async def settle(self, entry: Entry, prompt_tokens: int, answer_tokens: int) -> None:
        """Charges a request with what it used."""
        self.allowance = None  # looked at again where an answer is still to be sent
        await self._database.run(self._ledger.settle, entry, prompt_tokens, answer_tokens)

    async def usage(self, since: date | None, until: date | None) -> Sequence[UsageRow]:
        """What was used, by day and model, from one day to another."""
        days = [None if day is None else day.isoformat() for day in (since, until)]
        return await self._database.run(partial(self._ledger.usage, self._key_id, since=days[0], until=days[1]))

    async def look(self) -> Allowance:
        """What is left now, or was when the request was admitted."""
        if self.allowance is None:
            self.allowance = await self._database.run(self._ledger.allowance, self._key_id, self._plan)
        return self.allowance


class _Reservation:
    """Keeps `Reservation`: what is spent is granted in windows, so that most tokens cost no query."""

    def __init__(self, account: Account, entry: Entry) -> None:
        self._account, self._entry = account, entry
        self._granted = entry.granted
        self._prompt_tokens = self._answer_tokens = 0
        self._extending = asyncio.Lock()  # several answers of a request spend at once

    @property
    def answer_tokens(self) -> int | None:
        return self._entry.answer_tokens

    async def spend(self, prompt_tokens: int, answer_tokens: int) -> None:
        self._prompt_tokens, self._answer_tokens = prompt_tokens, answer_tokens
        if answer_tokens <= self._granted:
            return
        async with self._extending:
            if answer_tokens > self._granted:
                most = math.inf if self.answer_tokens is None else self.answer_tokens
                granted = min(answer_tokens + WINDOW - 1, most)
                await self._account.extend(self._entry, int(granted))
                self._granted = int(granted)

    async def settle(self) -> None:
        await self._account.settle(self._entry, self._prompt_tokens, self._answer_tokens)
