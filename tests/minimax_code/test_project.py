"""Projects: phases that build on each other, or are worked on side by side and brought together."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from helpers.dying import dying_workers
from minimax_code.client import MiniMaxCode
from minimax_code.errors import InputError, LeaseError, ModelError
from minimax_code.events import PhaseEnded
from minimax_code.model import Request, ToolCall
from minimax_code.project import Project, Workflow
from minimax_code.store import Store
from minimax_code.testing import ModelServer, ScriptedModel
from minimax_code.work.agent import Agent
from minimax_code.work.task import Task

ADA = Agent(name="Ada", role="Engineer")
BOB = Agent(name="Bob", role="Tester")
is_down = threading.Event()
Make = Callable[..., Project]
Start = Callable[[], MiniMaxCode]


def write(path: str, content: str) -> ToolCall:
    return ToolCall(id="1", name="write", arguments=json.dumps({"path": path, "content": content}))


def answer(request: Request) -> str | ToolCall:
    """Does what the task says: `write PATH TEXT`; conflicts are resolved as the task wants them."""
    if is_down.is_set():
        raise ModelError("it is down")
    system, asked = request.messages[0].content, request.messages[1].content
    if "You plan" in system:
        return "1. Write the file"
    if "You verify" in system:
        return "VERDICT: PASS"
    if any(message.role == "tool" for message in request.messages):
        return "It is written."
    if "right alone, but not together" in asked:
        return write("d", "both\n")
    words = asked.partition("write ")[2].split()
    both = "both\n" if "conflict" in asked and "resolvable" in asked else "neither\n"
    return write(words[0], both if "conflict" in asked else f"{words[1]}\n")


@pytest.fixture(scope="module")
def server() -> Generator[ModelServer, None, None]:
    with ModelServer(ScriptedModel(itertools.repeat(answer))) as serving:
        yield serving


@pytest.fixture
def start(server: ModelServer, tmp_path: Path) -> Generator[Start, None, None]:
    """Starts clients on a folder with the file `a`, each like a process of its own that comes after the one before."""
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "a").write_text("before\n")
    clients: list[MiniMaxCode] = []

    def client() -> MiniMaxCode:
        for before in clients:
            before.close()
        clients[:] = [
            MiniMaxCode(
                folder=tmp_path / "start", store=str(tmp_path / "jobs.db"), base_url=server.base_url, strategy="agent"
            )
        ]
        return clients[0]

    yield client
    clients[0].close()


@pytest.fixture
def make(start: Start) -> Make:
    """Makes projects on this folder."""
    client = start()

    def project(workflow: Workflow) -> Project:
        return client.create_project("Shop & Co", "A shop", [ADA, BOB], workflow)

    return project


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


def test_what_is_right_alone_has_to_be_right_together(make: Make) -> None:
    """Nobody changed the same lines; the check of the later one fails on the files of both, until they agree."""
    project = make("parallel")
    alone = "sh -c 'test ! -e b || test ! -e c || grep -q both d'"
    for name, agent, path in (("B", ADA, "b"), ("C", BOB, "c")):
        project.execute_phase(name, agent, Task(description=f"write {path} one", checks=[has(path, "one"), alone]))
    assert all(phase.success for phase in project.wait().values())
    assert {path.name for path in project.path.iterdir()} == {"a", "b", "c", "d"}


def test_a_project_goes_on_where_an_earlier_process_left_it(start: Start, tmp_path: Path) -> None:
    first, code = Task(description="write b one", checks=[has("b", "one")]), Task(description="write c two")
    project = start().create_project("Shop", "A shop", [ADA, BOB])
    assert project.execute_phase("Design", ADA, first).success

    client = start()
    again = client.create_project("Shop", "A shop", [ADA, BOB])
    assert again.id == project.id and again.phases["Design"].success
    assert again.execute_phase("Design", ADA, first).job == f"{project.id}-1", "it is not done a second time"
    assert client.create_project("Shop", "A shop", [ADA, BOB]) is again
    with pytest.raises(InputError, match="^phase_name: 'Design' is taken by another task"):
        again.execute_phase("Design", BOB, first)
    with pytest.raises(InputError, match="^name: there is another project 'Shop' on this folder"):
        client.create_project("Shop", "Another shop", [ADA, BOB])
    with pytest.raises(InputError, match="^name: there is no project 'Ship' on this folder"):
        client.open_project("Ship")
    twin = MiniMaxCode(folder=tmp_path / "start", store=str(tmp_path / "jobs.db"))
    with pytest.raises(LeaseError, match="is open in this process already"):
        twin.open_project("Shop")
    twin.close()

    assert again.execute_phase("Code", BOB, code.model_copy(update={"checks": (has("c", "two"),)})).success
    assert {path.name for path in start().open_project("Shop").path.iterdir()} == {"a", "b", "c"}


def test_a_phase_that_was_not_merged_is_done_again_when_it_is_executed_again(start: Start) -> None:
    project = start().create_project("Shop", "A shop", [ADA, BOB])
    flag = Task(description="write b one", checks=["sh -c 'test -e go'"])
    assert not project.execute_phase("B", ADA, flag).is_merged
    assert project.execute_phase("Go", BOB, Task(description="write go on", checks=[has("go", "on")])).success
    assert project.execute_phase("B", ADA, flag).is_merged
    assert project.phases["B"].job == f"{project.id}-3"


def test_a_phase_goes_on_when_its_server_is_there_again(start: Start) -> None:
    project = start().create_project("Shop", "A shop", [ADA, BOB])
    task = Task(description="write b one", checks=[has("b", "one")])
    is_down.set()
    assert project.execute_phase("B", ADA, task).result.state == "crashed_resumable"
    assert project.execute_phase("B", ADA, task).result.state == "crashed_resumable"
    is_down.clear()
    assert project.execute_phase("B", ADA, task).success
    assert project.phases["B"].job == f"{project.id}-1"


def test_it_is_brought_to_the_folder_when_the_user_says_so(make: Make, tmp_path: Path) -> None:
    project = make("sequential")
    project.execute_phase("Design", ADA, Task(description="write b one", checks=[has("b", "one")]))
    (tmp_path / "start" / "mine").write_text("kept\n")
    assert project.apply() == ["b"]
    assert {path.name for path in (tmp_path / "start").iterdir()} == {"a", "b", "mine"}


def test_kill_9_after_every_event_of_a_project(server: ModelServer, tmp_path: Path) -> None:
    """One process after the other opens it, writes one more event of the project, and dies: nothing is done twice."""
    (tmp_path / "source").mkdir()
    url, deaths = str(tmp_path / "jobs.db"), 0
    with dying_workers() as workers:
        while workers.work(url, "project", server.base_url, 1, "after"):
            deaths += 1
    assert deaths == 1 + 3 * 2
    store = Store(url)
    [row] = store.jobs("projects")
    ended = [one.event for one in store.events(row.id) if isinstance(one.event, PhaseEnded)]
    jobs = [("B", f"{row.id}-1", True), ("C", f"{row.id}-2", True)]
    assert [(one.phase, one.job, one.merged) for one in ended] == jobs
    files = tmp_path / "projects" / row.id / "files"
    assert {path.name: path.read_text() for path in files.iterdir()} == {"b": "one\n", "c": "two\n"}
    store.close()
