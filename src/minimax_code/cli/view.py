"""What a terminal shows of agents at work: plan, agents, what they do, budget; and in the end the change itself.

The view is a fold of events like everything else, so that it can be shown of a job that runs elsewhere or has ended.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from minimax_code.events import (
    AgentStarted,
    AgentStopped,
    Compacted,
    ModelAsked,
    ModelReplied,
    PlanChanged,
    Recorded,
    Step,
    ToolEnded,
    ToolIntended,
)
from minimax_code.phrases import line_of, phrase, printable

_LINES = 12  # of the live log
_MARKS = {"todo": "○", "doing": "●", "done": "✓"}
_DIFF_LINES = 400


@dataclass(frozen=True)
class Agent:
    """An agent as its line says it."""

    doing: str = "begins"
    calls: int = 0
    tokens: int = 0


@dataclass
class Screen:
    """What is shown, read from events.

    Attributes:
        limits: of the budget, in words; "" without any.
    """

    title: str
    limits: str = ""
    steps: tuple[Step, ...] = ()
    agents: dict[str, Agent] = field(default_factory=dict)
    lines: deque[Text] = field(default_factory=lambda: deque(maxlen=_LINES))
    tokens: int = 0
    calls: int = 0

    def read(self, recorded: Recorded) -> None:
        """Takes in one more event."""
        event = recorded.event
        name = getattr(event, "agent", "")
        match event:
            case PlanChanged(steps=steps):
                self.steps = steps
            case AgentStarted(model=model):
                self.agents[name] = Agent(f"begins with {line_of(model)}")
            case ModelAsked():
                self._set(name, "thinks")
            case ModelReplied(reply=reply):
                self._count(name, reply.usage.total_tokens)
            case Compacted(usage=usage) if usage.total_tokens:
                self._count(name, usage.total_tokens)
            case ToolIntended(call=call):
                self._set(name, f"calls {line_of(call.name)}")
            case ToolEnded():
                self._set(name, "reads what came of it")
            case AgentStopped(reason=reason):
                self._set(name, f"stopped: {reason}")
            case _:
                pass
        if said := phrase(event):
            line = Text(f"{recorded.at.astimezone():%H:%M:%S} ", style="dim")
            line.append(f"{name}: " if name else "", style="cyan")
            line.append(said, style="red" if isinstance(event, ToolEnded) and event.failed else "")
            self.lines.append(line)

    def _set(self, name: str, doing: str) -> None:
        self.agents[name] = replace(self.agents.get(name, Agent()), doing=doing)

    def _count(self, name: str, tokens: int) -> None:
        agent = self.agents.get(name, Agent())
        self.agents[name] = replace(agent, calls=agent.calls + 1, tokens=agent.tokens + tokens)
        self.calls, self.tokens = self.calls + 1, self.tokens + tokens

    def __rich__(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self.steps:
            plan = "\n".join(f"{_MARKS[step.state]} {line_of(step.text)}" for step in self.steps)
            parts.append(Panel(Text(plan), title="plan", title_align="left"))
        if self.agents:
            parts.append(Panel(self._agents(), title="agents", title_align="left"))
        if self.lines:
            parts.append(Panel(_one_line_each(self.lines), title="log", title_align="left"))
        used = f"{self.calls} calls, {self.tokens:,} tokens"
        parts.append(Text(f"{used} of {self.limits}" if self.limits else used, style="dim"))
        return Group(Text(line_of(self.title), style="bold", overflow="ellipsis", no_wrap=True), *parts)

    def _agents(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, agent in self.agents.items():
            used = f"{agent.calls} calls, {agent.tokens:,} tokens"
            table.add_row(Text(name or "-", style="cyan"), Text(agent.doing), Text(used, style="dim"))
        return table


def _one_line_each(lines: deque[Text]) -> Text:
    """Lines that don't wrap; what is shown is text, whatever a file had in it."""
    whole = Text("\n").join(lines)
    whole.no_wrap, whole.overflow = True, "ellipsis"
    return whole


def show_diff(console: Console, diff: str) -> None:
    """A change in colours where the terminal has some; a long one in part, and the rest is said to be missing."""
    lines = diff.splitlines()
    shown = "\n".join(map(printable, lines[:_DIFF_LINES]))
    if console.is_terminal:
        console.print(Syntax(shown, "diff", background_color="default", word_wrap=True))
    else:
        console.print(shown, markup=False, highlight=False, soft_wrap=True)
    if len(lines) > _DIFF_LINES:
        console.print(f"[{len(lines) - _DIFF_LINES:,} more lines]", markup=False)
