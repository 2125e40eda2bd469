"""The loop: a model is asked, its calls are made, until it makes none. Everything that happens is an event."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from minimax_code import events as e
from minimax_code.budget import Budget
from minimax_code.context import Window, length, request_of, shorten, summary_of, summary_request
from minimax_code.errors import BudgetError, ModelError
from minimax_code.model import Model, Reply, Request
from minimax_code.permissions import Permissions
from minimax_code.skills.calls import CallStyle, reply_with_tools
from minimax_code.stuck import MAX_ADVICE, find_circle, find_fault
from minimax_code.tools.caller import Caller, NeedsInputError, within
from minimax_code.tools.tool import Tool
from minimax_code.transcript import Transcript
from minimax_code.workbench.bench import Workbench

_LEAST_REPLY = 256  # tokens; with less left in the budget the agent stops


async def run_agent(
    model: Model,
    bench: Workbench,
    *,
    instructions: str,
    log: e.Log,
    budget: Budget,
    permissions: Permissions,
    tools: Sequence[Tool],
    system: str = "",
    agent: str = "agent",
    call_style: CallStyle | None = None,
    patience: int = 30,
) -> e.AgentStopped:
    """Runs an agent until it stops; with a log in which it has begun it goes on from there.

    Args:
        instructions: what it is to do. Told once: a further text is a further word to the same agent.
        system: what it reads above all else; kept from its first start.
        agent: its name in the log, which may have several.
        call_style: how the model calls tools, as calibration has found; else what its abilities say.
        patience: how many calls may go by without a file being changed.

    Raises:
        StoreError: the log can't be written; nothing was done that isn't in it.
        WorkspaceError: the agent's files can't be recorded.
    """
    abilities = await model.abilities()
    style = call_style or ("native" if abilities.calls_tools else "text")
    caller = Caller(agent, bench, permissions, {tool.spec.name: tool for tool in tools}, budget)
    loop = _Loop(agent, model, log, budget, caller, abilities.context_tokens, style, patience)
    return await loop.run(instructions, system)


@dataclass
class _Loop:
    agent: str
    model: Model
    log: e.Log
    budget: Budget
    caller: Caller
    context_tokens: int
    style: CallStyle
    patience: int
    state: Transcript = field(init=False)

    async def run(self, instructions: str, system: str) -> e.AgentStopped:
        self.state = state = Transcript.of(self.agent, self.log.recorded)
        if state.started is None:
            names = tuple(self.caller.tools)
            await self.emit(e.AgentStarted(agent=self.agent, model=self.model.name, system=system, tools=names))
        if instructions not in state.ledger.told:
            await self.emit(e.Told(agent=self.agent, text=instructions))
        if state.stopped and state.stopped.reason not in ("finished", "stuck"):
            state.stopped = None  # what was missing may be there now
        await self.caller.recover(state, self.emit)
        while state.stopped is None:
            try:
                await self.step()
            except BudgetError as error:
                await self.stop("budget", str(error))
            except ModelError as error:
                await self.stop("failed", str(error))
            except NeedsInputError as question:
                await self.stop("needs_input", str(question))
        return state.stopped

    @property
    def window(self) -> Window:
        return Window(self.context_tokens, self.state.characters)

    async def emit(self, event: e.Event) -> None:
        """Writes an event down, and reads what else is new: somebody may have told the agent something."""
        await self.log.append(event)
        self.state.read(self.log.recorded)

    async def stop(self, reason: e.StopReason, message: str) -> None:
        await self.emit(e.AgentStopped(agent=self.agent, reason=reason, message=message))

    async def step(self) -> None:
        state, specs = self.state, self.caller.specs
        if state.open_calls:
            await self.caller.make(state.open_calls[0], state, self.emit, self.window.output_characters)
        elif state.last_words and (fault := find_fault(state.last_words)):
            await self.advise(*fault)
        elif state.last_words:
            await self.stop("finished", state.last_words.content)
        elif circle := find_circle(state.rounds, patience=self.patience):
            await self.advise(*circle)
        elif shorter := shorten(state, specs, self.window):
            await self.emit(await self.summed_up(shorter))
        else:
            reply, seconds = await self.reply(request_of(state, specs, self.window))
            await self.emit(e.ModelReplied(agent=self.agent, reply=reply, seconds=seconds))

    async def reply(self, request: Request) -> tuple[Reply, float]:
        """A reply within the budget, and how many seconds it took."""
        prompt, left, began = self.window.count(request), self.budget.left, time.monotonic()
        if left.tokens is not None:  # a short reply is better than none
            most = min(request.max_tokens, max(_LEAST_REPLY, left.tokens - prompt))
            request = request.model_copy(update={"max_tokens": most})
        with self.budget.reserve(prompt_tokens=prompt, completion_tokens=request.max_tokens) as reservation:
            tokens = reservation.amount.tokens
            await self.emit(e.ModelAsked(agent=self.agent, tokens=tokens, characters=length(request)))
            async with within(self.budget):
                reply = await reply_with_tools(self.model, request, self.style)
            reservation.settle(reply.usage)
        return reply, time.monotonic() - began

    async def summed_up(self, shorter: e.Compacted) -> e.Compacted:
        """The same with a summary, where turns go: the model's, or a line for each turn where that is of no use."""
        request = summary_request(self.state, shorter, self.window)
        if request is None:
            return shorter
        reply, seconds = await self.reply(request)
        summary = summary_of(reply, request)
        return shorter.model_copy(update={"summary": summary, "usage": reply.usage, "seconds": seconds})

    async def advise(self, rule: str, advice: str) -> None:
        if self.state.num_stuck >= MAX_ADVICE:
            return await self.stop("stuck", f"{rule}; it was advised {MAX_ADVICE} times and went on")
        await self.emit(e.StuckSeen(agent=self.agent, rule=rule, advice=advice))
