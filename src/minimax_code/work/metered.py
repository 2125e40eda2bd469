"""A model whose every call is taken from a budget and written into a log, whoever asks it; an answer in it is kept."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict

from minimax_code.budget import Budget
from minimax_code.context import length
from minimax_code.events import Log, ModelAsked, ModelReplied
from minimax_code.model import Abilities, Model, Reply, Request
from minimax_code.tools.caller import within

_CHARACTERS_PER_TOKEN = 3  # less than any language or code has: what is set aside has to be enough


class MeteredModel:
    """A `Model` over another one.

    What the log has an answer for is not asked again, so that work that was interrupted can begin anew at no cost.
    The same request asked several times, for different answers, gets those of the log in their order.

    Args:
        agent: on whose behalf it is asked, as the log says it.
    """

    def __init__(self, model: Model, *, log: Log, budget: Budget, agent: str) -> None:
        self._model, self._log, self._budget, self._agent = model, log, budget, agent
        self._answers = defaultdict[str, list[Reply]](list)
        for one in log.recorded:
            if isinstance(one.event, ModelReplied) and one.event.agent == agent:
                self._answers[one.event.request].append(one.event.reply)

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
        asked = hashlib.sha256(request.model_dump_json().encode()).hexdigest()
        if answers := self._answers[asked]:
            return answers.pop(0)
        tokens = length(request) // _CHARACTERS_PER_TOKEN + 1
        with self._budget.reserve(prompt_tokens=tokens, completion_tokens=request.max_tokens) as reservation:
            await self._log.append(ModelAsked(agent=self._agent, tokens=tokens + request.max_tokens))
            began = time.monotonic()
            async with within(self._budget):
                reply = await self._model.reply(request)
            reservation.settle(reply.usage)
            seconds = time.monotonic() - began
        await self._log.append(ModelReplied(agent=self._agent, request=asked, reply=reply, seconds=seconds))
        return reply
