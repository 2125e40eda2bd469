"""plan: the agent's ledger."""

from __future__ import annotations

from pydantic import Field

from minimax_code.events import PlanChanged, Step
from minimax_code.tools.tool import Arguments, Output, Place, Typed


class PlanArguments(Arguments):
    steps: tuple[Step, ...] = Field(max_length=50, description="all steps, in order; state is todo, doing or done")
    notes: tuple[str, ...] = Field(default=(), max_length=50, description="what you must not forget")


class Plan(Typed[PlanArguments]):
    """Keeps a plan, which its user sees and no compaction loses."""

    name = "plan"
    description = "Sets your plan and notes, which you will keep however long you work."
    takes = PlanArguments

    async def _call(self, arguments: PlanArguments, place: Place) -> Output:
        await place.emit(PlanChanged(agent=place.agent, steps=arguments.steps, notes=arguments.notes))
        done = sum(step.state == "done" for step in arguments.steps)
        return Output(f"{done} of {len(arguments.steps)} steps done")
