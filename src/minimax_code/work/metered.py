"""A model whose every call is taken from a budget and written into a log, whoever asks it."""

from __future__ import annotations

import time

from minimax_code.budget import Budget
from minimax_code.events import Log, ModelAsked, ModelReplied
from minimax_code.model import Abilities, Model, Reply, Request
from minimax_code.tools.caller import within

_CHARACTERS_PER_TOKEN = 3  # less than any language or code has: what is set aside has to be enough


class MeteredModel:
    """A `Model` over another one.

    Args:
        agent: on whose behalf it is asked, as the log says it.
    """

    def __init__(self, model: Model, *, log: Log, budget: Budget, agent: str) -> None:
        self._model, self._log, self._budget, self._agent = model, log, budget, agent

    @property
    def name(self) -> str:
        """The other one's."""
        return self._model.name

    async def abilities(self) -> Abilities:
        """The other one's."""
        return await self._model.abilities()

    async def reply(self, request: Request) -> Reply:
        """The other one's reply.

        Raises:
            BudgetError: there isn't enough left for it, so nothing was asked; or the time was up before it came.
        """
        characters = sum(len(message.content) for message in request.messages)
        tokens = characters // _CHARACTERS_PER_TOKEN + 1
        with self._budget.reserve(prompt_tokens=tokens, completion_tokens=request.max_tokens) as reservation:
            await self._log.append(ModelAsked(agent=self._agent, tokens=tokens + request.max_tokens))
            began = time.monotonic()
            async with within(self._budget):
                reply = await self._model.reply(request)
            reservation.settle(reply.usage)
            seconds = time.monotonic() - began
        await self._log.append(ModelReplied(agent=self._agent, reply=reply, seconds=seconds))
        return reply
