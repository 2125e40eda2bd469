"""The client as programs use it: against a server on a socket, with jobs in a file."""

from __future__ import annotations

import itertools
import json
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from helpers.commits import Commits
from helpers.forge import serving
from minimax_code import Agent, Answer, MiniMaxCode, Question, Task
from minimax_code.errors import InputError
from minimax_code.model import Request, ToolCall
from minimax_code.skills.calibration_tasks import JUDGEMENTS
from minimax_code.testing import Line, ModelServer, ScriptedModel

SERVER = """
import os
from mcp.server.mcpserver import MCPServer

server = MCPServer("shop")

@server.tool()
def price(name: str) -> str:
    return f"{name}: {os.environ['PRICE']}"

server.run()
"""
CHECK = "grep -q hello greeting"


def answer(request: Request) -> str | ToolCall:
    """A model that writes a greeting."""
    system = request.messages[0].content
    if "You plan" in system:
        return "1. Write the greeting"
    if "You verify" in system:
        return "VERDICT: PASS"
    if any(message.role == "tool" for message in request.messages):
        return "It is written."
    return ToolCall(id="1", name="write", arguments=json.dumps({"path": "greeting", "content": "hello\n"}))


def serve(script: Iterable[Line] | None = None) -> ModelServer:
    return ModelServer(ScriptedModel(itertools.repeat(answer) if script is None else script))


def test_a_task_a_project_and_a_job(tmp_path: Path) -> None:
    told: list[str] = []
    with serve() as server, MiniMaxCode("key", base_url=server.base_url, store=str(tmp_path / "jobs.db")) as code:
        result = code.execute(Task(description="Greet", checks=[CHECK], constraints={"budget_limit": "100 API calls"}))
        assert (result.success, result.files_created, result.cost.calls) == (True, ("greeting",), 4)

        ada = Agent(name="Ada", role="Engineer", expertise=["greetings"])
        project = code.create_project(name="Hello", description="Greetings", agents=[ada], workflow="sequential")
        phase = project.execute_phase(phase_name="Greet", agent=ada, task=Task(description="Greet", checks=[CHECK]))
        assert phase.success
        assert (project.path / "greeting").read_text() == "hello\n"

        long = Task(
            description="Greet", checks=[CHECK], max_duration_days=5, checkpoint_frequency_hours=6,
            notification_callback=lambda update: told.append(update.phase),
        )  # fmt: skip
        job = code.start_autonomous_task(long)
        for _ in range(600):
            if job.is_complete:
                break
            time.sleep(0.1)
        assert job.get_results().success
        assert job.get_status().progress == 100
        assert told


def test_a_server_that_is_away_is_a_state_not_an_end(tmp_path: Path) -> None:
    with serve([]) as server:
        address = server.base_url
        with MiniMaxCode(base_url=address, store=str(tmp_path / "jobs.db")) as code:
            result = code.execute(Task(description="Greet", checks=[CHECK]))
    assert (result.state, result.success) == ("crashed_resumable", False)
    assert "no line for request 1" in result.issues[0]
    assert "minimax-code jobs resume job-" in result.issues[1]


def test_tools_of_servers_and_somebody_to_ask(tmp_path: Path) -> None:
    """What isn't allowed by a rule is asked for; a rule in an answer goes on to hold. In a job nobody is asked."""
    (tmp_path / "server.py").write_text(SERVER)
    shop = {"command": [sys.executable, str(tmp_path / "server.py")], "env": {"PRICE": "7"}}
    asked: list[str] = []

    def ask(question: Question) -> Answer | bool:
        asked.append(f"{question.tool} {question.subject}")
        return Answer(allowed=True, rule=question.rule) if len(asked) > 1 else False

    def work(request: Request) -> str | ToolCall:
        told = [message.content for message in request.messages if message.role == "tool"]
        if not (said := answer(request)) or (isinstance(said, str) and len(told) in (0, 4)):
            return said
        if len(told) < 3:
            return ToolCall(id=str(len(told)), name="mcp__shop__price", arguments=f'{{"name": "pen {len(told)}"}}')
        return ToolCall(id="w", name="write", arguments=json.dumps({"path": "greeting", "content": f"hello {told}\n"}))

    with serve(itertools.repeat(work)) as server:
        with MiniMaxCode(
            mode="interactive", ask=ask, mcp={"shop": shop}, base_url=server.base_url, store=str(tmp_path / "jobs.db")
        ) as code:
            result = code.execute(Task(description="Greet", checks=[CHECK], mode="interactive"))
            assert result.success, result
            assert asked == ['mcp__shop__price {"name": "pen 0"}', 'mcp__shop__price {"name": "pen 1"}']
            assert "pen 1: 7" in result.diff and "pen 2: 7" in result.diff and "pen 0: 7" not in result.diff
            job = code.start_autonomous_task(Task(description="Greet", checks=[CHECK]))
            for _ in range(600):
                if job.is_complete:
                    break
                time.sleep(0.1)
            assert job.get_results().state == "needs_input"
            assert len(asked) == 2
        with MiniMaxCode(base_url=server.base_url, store=str(tmp_path / "more.db"), mcp={"shop": shop}) as code:
            assert code.execute(Task(description="Greet", checks=[CHECK])).state == "needs_input"


def test_arguments_that_can_t_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="^folder: "):
        MiniMaxCode(folder=tmp_path / "nowhere")
    with pytest.raises(InputError, match="^mode: "):
        MiniMaxCode(mode="yolo")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="^mode: .* it is 'interactive' with `ask`"):
        MiniMaxCode(mode="interactive")
    with pytest.raises(InputError, match="^mode: "):
        MiniMaxCode(ask=lambda question: True)
    with pytest.raises(InputError, match="^permissions: "):
        MiniMaxCode(rules=["bash"])
    with pytest.raises(InputError, match=r"^mcp\.shop\.program: is not understood"):
        MiniMaxCode(mcp={"shop": {"program": ["x"]}})
    with MiniMaxCode(base_url="http://127.0.0.1:9/v1", store=str(tmp_path / "jobs.db")) as code:
        with pytest.raises(InputError, match="^mode: "):
            code.execute(Task(description="x", mode="interactive"))
        with pytest.raises(InputError, match="^agents: "):
            code.create_project("x", "y", agents=[])
        with pytest.raises(InputError, match="^pr_number: "):
            code.review_pr("https://github.com/a/b", 0)


SHOP = "def half(x):\n    return x / 2\n"


@pytest.mark.parametrize("judges", [True, False])
def test_a_review_asks_the_model_if_it_can_judge(judges: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    commits = Commits(tmp_path / "repository")
    base = commits.commit("base", {"shop.py": SHOP})
    head = commits.commit("head", {"shop.py": SHOP.replace("/ 2", "/ 3")})
    right = {task.right for task in JUDGEMENTS} if judges else set()

    def say(request: Request) -> str:
        """Judges the questions of the calibration, and finds the bug; writes no test."""
        asked = request.messages[-1].content
        if claim := re.search(r"^A: (.*)$", asked, re.MULTILINE):
            return "A" if claim[1] in right or "this is a mistake" in claim[1] else "B"
        return "shop.py:2 high `return x / 3` half of 6 is 3"

    model = ScriptedModel(itertools.repeat(say))
    with (
        ModelServer(model) as server,
        serving(commits, tmp_path / "served", base, head) as forge,
        MiniMaxCode(base_url=server.base_url, store=str(tmp_path / "jobs.db")) as code,
    ):
        found = code.review_pr(forge.url, 7, {"standards": []})
        assert found.model == "scripted at 127.0.0.1"
        assert found.read_by_model == (("shop.py",) if judges else ())
        assert [issue.rule for issue in found.issues] == (["model:said"] if judges else [])
        assert any("it can't judge" in note for note in found.notes) != judges
        asked = len(model.requests)
        assert code.review_pr(forge.url, 7, {"standards": []}).read_by_model == found.read_by_model
        assert len(model.requests) - asked < (5 if judges else 1)  # the calibration was kept
