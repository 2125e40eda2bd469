"""What a terminal shows of agents at work: plan, agents, what they do, budget; and in the end the change itself.

The view is a fold of events like everything else, so that it can be shown of a job that runs elsewhere or has ended.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rich.console import Console, ConsoleOptions, RenderResult
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

_LINES = 100  # of the live log, of which as many are shown as there is room for
_MARKS = {"todo": "○", "doing": "●", "done": "✓"}
_DIFF_LINES = 400
_HASHES = re.compile(r"index [0-9a-f]+\.\.[0-9a-f]+( \d+)?")


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
                self._set(name, "has answered")
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

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As much as fits on the terminal: a line for each step, agent and event, the newest and what is being done."""
        room = console.size.height - 3  # the title, the budget, and where the cursor stands
        yield Text(line_of(self.title), style="bold", overflow="ellipsis", no_wrap=True)
        if lines := self._plan(room // 3 - 2):
            done = sum(step.state == "done" for step in self.steps)
            yield _section(f"plan, {done} of {len(self.steps)} done", Text("\n").join(lines))
            room -= len(lines) + 2
        if agents := list(self.agents.items())[-max(room // 3 - 2, 1) :]:
            yield _section("agents", _table(agents))
            room -= len(agents) + 2
        if (lines := list(self.lines)[-max(room - 2, 1) :]) and room > 2:
            yield _section("log", Text("\n").join(lines))
        used = f"{self.calls} calls, {self.tokens:,} tokens"
        yield Text(f"{used} of {self.limits}" if self.limits else used, style="dim", overflow="ellipsis", no_wrap=True)

    def _plan(self, room: int) -> list[Text]:
        """Steps, from the one before that which is being done where not all have room."""
        doing = next((i for i, step in enumerate(self.steps) if step.state != "done"), len(self.steps))
        first = max(min(doing - 1, len(self.steps) - room), 0)
        shown = self.steps[first : first + max(room, 0)]
        return [Text(f"{_MARKS[step.state]} {line_of(step.text)}") for step in shown]


def _table(agents: Sequence[tuple[str, Agent]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(3):
        table.add_column(no_wrap=True, overflow="ellipsis")
    for name, agent in agents:
        used = f"{agent.calls} calls, {agent.tokens:,} tokens"
        table.add_row(Text(name or "-", style="cyan"), Text(agent.doing), Text(used, style="dim"))
    return table


def _section(title: str, content: Text | Table) -> Panel:
    """What doesn't wrap; what is shown is text, whatever a file had in it."""
    if isinstance(content, Text):
        content.no_wrap, content.overflow = True, "ellipsis"
    return Panel(content, title=title, title_align="left")


def show_diff(console: Console, diff: str) -> None:
    """A change in colours where the terminal has some; a long one in part, and the rest is said to be missing."""
    lines = [line for line in diff.splitlines() if not _HASHES.fullmatch(line)]
    shown = "\n".join(map(printable, lines[:_DIFF_LINES]))
    if console.is_terminal:
        console.print(Syntax(shown, "diff", background_color="default", word_wrap=True))
    else:
        console.print(shown, markup=False, highlight=False, soft_wrap=True)
    if len(lines) > _DIFF_LINES:
        console.print(f"[{len(lines) - _DIFF_LINES:,} more lines]", markup=False)
