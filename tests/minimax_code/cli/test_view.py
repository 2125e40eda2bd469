"""What is shown is text: whatever a model, a file or a server wrote, a terminal takes nothing of it for a command."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from helpers.agents import call
from minimax_code.cli.view import Screen, show_diff
from minimax_code.events import (
    AgentStarted,
    AgentStopped,
    Event,
    ModelReplied,
    PlanChanged,
    Recorded,
    Step,
    Told,
    ToolEnded,
    ToolIntended,
)
from minimax_code.model import Reply, Usage
from minimax_code.phrases import line_of, phrase

EVIL = "\x1b]0;owned\x07\x1b[2J[bold]\r"


def shown(*events: Event, title: str = "Fix it", width: int = 100, height: int = 25) -> str:
    screen = Screen(title, "100 calls")
    for i, event in enumerate(events):
        screen.read(Recorded(seq=i + 1, at=datetime.now(UTC), event=event))
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width, height=height)
    console.print(screen)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_screen_tells_plan_agents_log_and_budget() -> None:
    text = shown(
        AgentStarted(agent="worker", model="m", system=""),
        PlanChanged(agent="worker", steps=(Step(text="look", state="done"), Step(text="mend", state="doing"))),
        ModelReplied(agent="worker", reply=Reply(content="I see.", usage=Usage(prompt_tokens=1200))),
        ToolIntended(agent="worker", call=call("bash", command="pytest"), tree="t"),
        ToolEnded(agent="worker", call_id="c", output="1 failed\nin 2 s", failed=True, tree="t", seconds=1.0),
    )
    for part in ("✓ look", "● mend", "reads what came of it", "1 calls, 1,200 tokens of 100 calls", "worker: I see."):
        assert part in text, text
    assert "worker: bash pytest" in text
    assert "worker: failed: in 2 s" in text


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50), (40, 12), (20, 6)])
def test_it_fits_on_the_terminal_and_shows_what_is_being_done(width: int, height: int) -> None:
    """However long the plan and many the agents: a line that wraps, or one too many, would be there twice."""
    steps = tuple(Step(text=f"step {i} {'long ' * 50}", state="done" if i < 20 else "todo") for i in range(40))
    said = [Told(agent=f"agent {i}", text=f"{i} {'word ' * 50}") for i in range(60)]
    replied = [ModelReplied(agent=f"agent {i}", reply=Reply(content="")) for i in range(30)]
    text = shown(PlanChanged(agent="a", steps=steps), *said, *replied, width=width, height=height)
    lines = text.splitlines()
    assert len(lines) <= height - 1
    assert max(map(len, lines)) <= width
    assert lines[0] == "Fix it" and lines[-1].startswith("30 calls")
    if height >= 24:
        assert "step 20" in text and "agent 29" in text and "agent 59: is told: 59" in text
        assert "plan, 20 of 40 done" in text


@pytest.mark.parametrize(
    "event",
    [
        Told(agent="a", text=EVIL),
        AgentStarted(agent="a", model=EVIL, system=""),
        PlanChanged(agent="a", steps=(Step(text=EVIL),)),
        ModelReplied(agent="a", reply=Reply(content=EVIL)),
        ToolIntended(agent="a", call=call(EVIL), tree="t"),
        ToolEnded(agent="a", call_id="c", output=EVIL, failed=False, tree="t", seconds=0.0),
        AgentStopped(agent="a", reason="finished", message=EVIL),
    ],
)
def test_no_event_commands_a_terminal(event: Event) -> None:
    text = shown(event, title=f"Fix {EVIL}")
    assert "\x1b" not in text and "\x07" not in text
    assert "\x1b" not in phrase(event)


def test_a_long_change_is_shown_in_part_and_a_hostile_one_as_text() -> None:
    console = Console(file=io.StringIO(), width=100)
    show_diff(console, f"+{EVIL}\n" + "+x\n" * 500)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "\x1b" not in text and "[bold]" in text
    assert text.endswith("[101 more lines]\n")


def test_a_line_is_a_line() -> None:
    assert line_of("a\n\tb\x00c") == "a b c"
    assert len(line_of("x" * 10_000)) == 201
