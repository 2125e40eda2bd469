"""`TaskRouter`: has a task split, and says which agent a sub-task is for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Sequence

from minimax_code.clusters.agent import Agent
from minimax_code.clusters.decomposition import SCHEMA, problems, read, repaired
from minimax_code.clusters.subtask import Subtask
from minimax_code.errors import ModelError
from minimax_code.model import Message, Model, Request
from minimax_code.remote import ServerModel

_ANSWER_TOKENS = 8192


class TaskRouter:
    """Splits tasks with a model, and routes sub-tasks by what agents know and how much they have to do.

    Args:
        model: None: that of the server which the environment names, see `ServerModel`.
        capabilities: what the agents know about; None: whatever a sub-task requires is taken.
        attempts: how often the model is asked before its answer is repaired by rule.

    Attributes:
        notes: what was repaired in the last decomposition, a sentence each.
    """

    def __init__(
        self, model: Model | None = None, *, capabilities: Collection[str] | None = None, attempts: int = 3
    ) -> None:
        self._model = model
        self.capabilities = capabilities
        self._attempts = attempts
        self.notes: list[str] = []

    def decompose(self, prompt: str) -> str:
        """Sub-tasks as a JSON array, for a prompt that asks for one; see `decomposed`."""
        subtasks = asyncio.run(self.decomposed(prompt))
        return json.dumps([subtask.model_dump(mode="json") for subtask in subtasks], ensure_ascii=False)

    async def decomposed(self, prompt: str) -> list[Subtask]:
        """Sub-tasks whose ids differ, whose dependencies are there and without cycles, and that some agent knows about.

        The model is told what is wrong with its answer, and asked again; what is still wrong then is repaired.

        Raises:
            ModelError: it can't be asked, or never gives a list of sub-tasks.
        """
        if self._model:
            return await self._decomposed(self._model, prompt)
        model = ServerModel()
        try:
            return await self._decomposed(model, prompt)
        finally:
            await model.close()

    def select(self, agents: Sequence[Agent], task: Subtask, *, avoid: Collection[str] = ()) -> Agent | None:
        """The free agent that is best for a sub-task; None: it waits.

        It waits for one of those that know most of what it requires rather than go to one that knows less. Among
        them it goes to whoever has least to do, for the room that it has.

        Args:
            avoid: ids of agents that have failed at it; they are last.
        """
        best = max((agent.match(task.required_capabilities) for agent in agents), default=0.0)
        free = [agent for agent in agents if agent.is_available() and agent.match(task.required_capabilities) == best]
        return min(free, key=lambda agent: (agent.id in avoid, agent.load, agent.num_begun), default=None)

    async def _decomposed(self, model: Model, prompt: str) -> list[Subtask]:
        schema = SCHEMA if (await model.abilities()).takes_json_schema else None
        messages = [Message(role="user", content=prompt)]
        best: list[Subtask] | None = None
        trouble = ""
        for _ in range(self._attempts):
            request = Request(messages=tuple(messages), json_schema=schema, max_tokens=_ANSWER_TOKENS)
            reply = await model.reply(request)
            try:
                best = read(reply.content)
                found = problems(best, self.capabilities)
            except ModelError as error:
                found = [str(error)]
            if not found:
                self.notes = []
                assert best is not None
                return best
            trouble = "; ".join(found)
            again = f"That can't be used: {trouble}.\n\nReturn the whole JSON array again, without these mistakes."
            messages = [messages[0], reply.message, Message(role="user", content=again)]
        if best is None:
            raise ModelError(f"{model.name} doesn't split the task: {trouble}")
        best, self.notes = repaired(best, self.capabilities)
        return best
