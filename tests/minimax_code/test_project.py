"""Projects: phases that build on each other, or are worked on side by side and brought together."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from minimax_code.errors import InputError
from minimax_code.events import MemoryLog
from minimax_code.loop import Loop
from minimax_code.model import Request, ToolCall
from minimax_code.project import Project, Workflow
from minimax_code.testing import ScriptedModel
from minimax_code.work.agent import Agent
from minimax_code.work.execute import execute
from minimax_code.work.result import TaskResult
from minimax_code.work.task import Task

ADA = Agent(name="Ada", role="Engineer")
BOB = Agent(name="Bob", role="Tester")
Make = Callable[..., Project]


def write(path: str, content: str) -> ToolCall:
    return ToolCall(id="1", name="write", arguments=json.dumps({"path": path, "content": content}))


def answer(request: Request) -> str | ToolCall:
    """Does what the task says: `write PATH TEXT`; conflicts are resolved as the first line of the task wants them."""
    system, asked = request.messages[0].content, request.messages[1].content
    if "You plan" in system:
        return "1. Write the file"
    if "You verify" in system:
        return "VERDICT: PASS"
    if any(message.role == "tool" for message in request.messages):
        return "It is written."
    words = asked.partition("write ")[2].split()
    both = "both\n" if "conflict" in asked and "resolvable" in asked else "neither\n"
    return write(words[0], both if "conflict" in asked else f"{words[1]}\n")


@pytest.fixture
def make(tmp_path: Path) -> Generator[Make, None, None]:
    """Makes projects on a folder with the file `a`."""
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "a").write_text("before\n")
    loop, names = Loop(), itertools.count()

    async def do(task: Task, folder: Path | None) -> tuple[TaskResult, Path]:
        model, place = ScriptedModel(itertools.repeat(answer)), tmp_path / f"place{next(names)}"
        options = {"model": model, "folder": folder, "log": MemoryLog(), "rounds": 1, "strategy": "agent"}
        return await execute(task, place=place, **options), place  # type: ignore[arg-type]

    def project(workflow: Workflow) -> Project:
        given = {"folder": tmp_path / "start", "root": tmp_path / "projects", "do": do, "loop": loop}
        return Project("Shop & Co", "A shop", [ADA, BOB], workflow, **given)  # type: ignore[arg-type]

    yield project
    loop.close()


def has(path: str, text: str) -> str:
    return f"grep -q {text} {path}"


def test_phases_build_on_each_other(make: Make, tmp_path: Path) -> None:
    project = make("sequential")
    first = project.execute_phase("Design", ADA, Task(description="write b one", checks=[has("b", "one")]))
    second = project.execute_phase(
        "Code", BOB, Task(description="write c two", checks=[has("b", "one"), has("c", "two")])
    )
    assert first.success and second.success, f"{first}\n{second}"
    assert second.after == ("Design",)
    assert {path.name for path in project.path.iterdir()} == {"a", "b", "c"}
    assert "+++ b/c" in project.diff
    assert {path.name for path in (tmp_path / "start").iterdir()} == {"a"}


def test_what_is_red_is_not_merged(make: Make) -> None:
    project = make("sequential")
    phase = project.execute_phase("Design", ADA, Task(description="write b one", checks=[has("b", "two")]))
    assert (phase.result.state, phase.is_merged) == ("failed", False)
    assert str(phase).startswith("Design, not merged: failed")
    assert project.diff == ""


def test_side_by_side_all_is_brought_together(make: Make) -> None:
    project = make("parallel")
    project.execute_phase("B", ADA, Task(description="write b one", checks=[has("b", "one")]))
    project.execute_phase("C", BOB, Task(description="write c two", checks=[has("c", "two")]))
    project.execute_phase(
        "D", BOB, Task(description="write d three", checks=["cat b c", has("d", "three")]), after=["B", "C"]
    )
    assert all(phase.success for phase in project.wait().values())
    assert {path.name for path in project.path.iterdir()} == {"a", "b", "c", "d"}


@pytest.mark.parametrize("hint", ["resolvable", "hopeless"])
def test_a_conflict_is_resolved_or_reported(make: Make, hint: str) -> None:
    project = make("parallel")
    for name, agent in (("B", ADA), ("C", BOB)):
        check = 'grep -qE "one|two|both" a'
        project.execute_phase(
            name, agent, Task(description=f"write a {'one' if agent is ADA else 'two'} {hint}", checks=[check])
        )
    phases = project.wait().values()
    text = (project.path / "a").read_text()
    if hint == "resolvable":
        assert all(phase.success for phase in phases)
        assert text == "both\n"
    else:
        assert sorted(phase.success for phase in phases) == [False, True]
        lost = next(phase for phase in phases if not phase.success)
        assert (lost.conflicts, lost.result.state) == (("a",), "partial")
        assert "conflicts in a" in str(lost)
        assert text in ("one\n", "two\n")


def test_what_can_t_be_a_project_or_a_phase(make: Make) -> None:
    project = make("sequential")
    with pytest.raises(InputError, match="^phase_name: "):
        project.execute_phase(" ", ADA, "x")
    with pytest.raises(InputError, match="^agent: Eve is not one"):
        project.execute_phase("A", Agent(name="Eve", role="Spy"), "x")
    with pytest.raises(InputError, match="^after: there is no phase 'Z'"):
        project.execute_phase("A", ADA, "x", after=["Z"])
    with pytest.raises(InputError, match="^workflow: 'random' is none"):
        make("random")
