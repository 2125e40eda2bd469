"""Makes the calls of an agent: permission first, then intention, call and outcome, each in the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from minimax_code.budget import Budget
from minimax_code.context import clip
from minimax_code.errors import BudgetError, CodeError, StoreError
from minimax_code.events import Event, PermissionAnswered, PermissionAsked, ToolEnded, ToolIntended
from minimax_code.model import ToolCall, ToolSpec
from minimax_code.permissions import Permissions, question_of
from minimax_code.skills.calls import arguments_of
from minimax_code.tools.tool import Output, Place, Tool, ToolError
from minimax_code.transcript import Transcript
from minimax_code.workbench.bench import Workbench

Emit = Callable[[Event], Awaitable[None]]
_UNKNOWN = "The process ended during this call, so its outcome is unknown. Your files are again as they were before it."


class NeedsInputError(CodeError):
    """Only the user can answer, and isn't there; the message is the question."""


@dataclass(frozen=True)
class Caller:
    """Makes an agent's calls. Whatever is wrong with one, the model reads it and goes on."""

    agent: str
    bench: Workbench
    permissions: Permissions
    tools: Mapping[str, Tool]
    budget: Budget

    @cached_property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What the model is told of the tools."""
        return tuple(tool.spec for tool in self.tools.values())

    async def recover(self, state: Transcript, emit: Emit) -> None:
        """After a crash within a call: the files as they were before it. It isn't made again, unless it resumes."""
        if state.intended is None:
            return
        _, begun = state.intended
        tool = self.tools.get(begun.call.name)
        if tool is None or not tool.resumes:
            await self.bench.workspace.restore(begun.tree)
            await self._end(begun.call, Output(_UNKNOWN, failed=True), begun.tree, 0.0, emit)

    async def make(self, call: ToolCall, state: Transcript, emit: Emit, characters: int) -> None:
        """Makes a call, or refuses it; its output is cut to so many characters.

        Raises:
            NeedsInputError: the user has to be asked, and nobody is there.
            BudgetError: the time is used up; whatever the call had done will be undone.
            StoreError: the log can't be written.
        """
        began = time.monotonic()
        try:
            tool, arguments = self._find(call)
            await self._permit(tool, call, tool.subject(arguments, self.bench), state, emit)
        except NeedsInputError:
            raise
        except ToolError as error:
            return await self._end(call, Output(str(error), failed=True), state.tree, time.monotonic() - began, emit)
        if state.intended is None:
            tree = state.tree or await self.bench.workspace.snapshot()
            await emit(ToolIntended(agent=self.agent, call=call, tree=tree))
        assert state.intended is not None
        number, begun = state.intended
        place = Place(self.bench, self.agent, number, begun.tree, self.budget, emit)
        try:
            async with within(self.budget):
                output = await tool.call(arguments, place)
        except (BudgetError, StoreError):
            raise
        except CodeError as error:
            output = Output(str(error), failed=True)
        output, tree = await self._record(tool, replace(output, text=clip(output.text, characters)), begun.tree)
        await self._end(call, output, tree, time.monotonic() - began, emit)

    def _find(self, call: ToolCall) -> tuple[Tool, dict[str, Any]]:
        tool, arguments = self.tools.get(call.name), arguments_of(call)
        if tool is None:
            raise ToolError(f"there is no tool {call.name!r}; there are {', '.join(self.tools)}")
        if arguments is None:
            raise ToolError(f"{call.name}: the arguments are no JSON object; write them as its schema says")
        return tool, dict(arguments)

    async def _permit(self, tool: Tool, call: ToolCall, subject: str, state: Transcript, emit: Emit) -> None:
        if state.intended is not None:  # it was permitted before a crash
            return
        permissions = self.permissions.answered(state.rules)
        action, rule = permissions.decide(call.name, subject, tool.reach)
        if action == "ask" and call.id not in state.answers:
            question = question_of(self.agent, call.name, subject)
            await emit(PermissionAsked(agent=self.agent, call_id=call.id, question=str(question)))
            if permissions.ask is None:
                raise NeedsInputError(f"{question}; allow it with the rule '{question.rule}'")
            answer = await permissions.ask(question)
            answered = PermissionAnswered(agent=self.agent, call_id=call.id, allowed=answer.allowed, rule=answer.rule)
            await emit(answered)
        if action == "deny" or (action == "ask" and not state.answers[call.id]):
            why = f"the rule '{rule}' forbids it" if rule else "your user doesn't allow it"
            raise ToolError(f"{call.name} was not called: {why}. Do without it, or say why you can't")

    async def _record(self, tool: Tool, output: Output, before: str) -> tuple[Output, str]:
        """The tree after a call. If a file was changed that may not be, by whichever way, all of the call is undone."""
        if tool.reach == "nothing":
            return output, before
        workspace = self.bench.workspace
        tree = await workspace.snapshot()
        changed = await workspace.changed_files(before, tree) if tree != before and self.permissions.of_files else ()
        if path := self.permissions.forbids_change(changed):
            await workspace.restore(before)
            return Output(f"{path} may not be changed, so all that this call changed was undone", failed=True), before
        return output, tree

    async def _end(self, call: ToolCall, output: Output, tree: str, seconds: float, emit: Emit) -> None:
        await emit(
            ToolEnded(
                agent=self.agent, call_id=call.id, output=output.text, failed=output.failed, tree=tree,
                seconds=seconds, receipt=output.receipt,
            )
        )  # fmt: skip


@asynccontextmanager
async def within(budget: Budget) -> AsyncGenerator[None, None]:
    """Ends what takes longer than the budget's seconds.

    Raises:
        BudgetError: it did.
    """
    left = budget.left.seconds
    try:
        async with asyncio.timeout(left):
            yield
    except TimeoutError as error:
        raise BudgetError("seconds", "all of the time is used up; allow more seconds") from error
