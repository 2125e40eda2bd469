"""The example of docs/code.md as users run it, against a server on a socket whose model says what a script says."""

from __future__ import annotations

import json
import runpy
from collections.abc import Generator
from pathlib import Path

import pytest

from minimax_code.clusters import AgentCluster
from minimax_code.model import Request, ToolCall
from minimax_code.testing import ModelServer, ScriptedModel
from minimax_code.workbench import testrun

from .conftest import subtask

EXAMPLES = Path(__file__).parents[3] / "examples" / "code"
PARTS = [
    subtask("ingest", required_capabilities=["python", "postgresql"]),
    subtask("alert", "ingest", required_capabilities=["pytest"]),
]
SOURCES = {
    "ingest": "def ingest(lines):\n    return [int(line) for line in lines]\n",
    "alert": "from ingest import ingest\n\n\ndef alert(lines):\n    return [x for x in ingest(lines) if x > 10]\n",
}
TESTS = {"ingest": "assert ingest(['1', '12']) == [1, 12]", "alert": "assert alert(['10', '11']) == [11]"}


def team(request: Request) -> str | ToolCall:
    """Says what an able model would, whoever asks, in whatever order."""
    text = "\n".join(message.content for message in request.messages)
    if "Decompose the following task" in text:
        return json.dumps(PARTS)
    part = next(name for name in ("alert", "ingest") if f"Do {name}" in text)
    if "acceptance test of a task" in text:
        return f"```python\nfrom {part} import {part}\n\n\ndef test_{part}():\n    {TESTS[part]}\n```"
    if "You plan a task" in text:
        return f"1. Write {part}.py"
    if "You verify somebody else" in text:
        return "VERDICT: PASS"
    if request.messages[-1].role == "tool":
        return f"{part}.py is there."
    if not request.tools:  # a pipeline asks
        return f"```python {part}.py\n{SOURCES[part]}```"
    assert part != "alert" or "Done before (ingest): Do ingest (changed ingest.py" in text
    return ToolCall(id="1", name="write", arguments=json.dumps({"path": f"{part}.py", "content": SOURCES[part]}))


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[ScriptedModel, None, None]:
    """The model of the server in the environment."""
    # Plugins of pytest in our own environment take seconds to start, and the parts' tests need none.
    monkeypatch.setitem(testrun._ENV, "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # type: ignore[index]
    monkeypatch.setenv("MINIMAX_CODE_STORE", str(tmp_path / "jobs.db"))
    model = ScriptedModel([team] * 100, name="minimax-m3")
    with ModelServer(model) as server:
        monkeypatch.setenv("MINIMAX_BASE_URL", server.base_url)
        yield model


def test_the_example_of_the_article(tmp_path: Path, model: ScriptedModel, capsys: pytest.CaptureFixture[str]) -> None:
    """The second part stands on the files of the first."""
    runpy.run_path(str(EXAMPLES / "agent_cluster.py"))["main"]()
    asked = model.requests[0].messages[-1].content
    assert "analytics" in asked and "load-testing" in asked
    said = capsys.readouterr().out
    assert "Initialized agent: DevOps Engineer (Infrastructure)" in said
    assert "100.0% alert is done" in said
    report = said.partition("Project Execution Report:\n")[2].splitlines()
    assert report == ["  Total tasks: 2", "  Completed: 2", "  Failed: 0", "  Agents used: 2"], said
    assert (tmp_path / "jobs.db").exists()


def test_a_cluster_of_ones_own(model: ScriptedModel, capsys: pytest.CaptureFixture[str]) -> None:
    """As the article writes one, of agents and a router; files go from one round to the next."""
    example = runpy.run_path(str(EXAMPLES / "own_cluster.py"))
    example["execute_complex_project"](example["PROJECT"])
    _, _, _, _, last, *said = capsys.readouterr().out.splitlines()
    assert last == "Initialized agent: QA Engineer (Quality Assurance)"
    assert said == [
        "Decomposed into 2 sub-tasks",
        "",
        "Executing 2 tasks with agent cluster...",
        "Agent Backend Developer Alpha executing task ingest",
        "Agent QA Engineer executing task alert",
        "",
        "Project Execution Report:",
        "  Total tasks: 2",
        "  Completed: 2",
        "  Failed: 0",
        "  Agents utilized: 2",
    ]


def test_agents_work_by_their_strategy(model: ScriptedModel) -> None:
    cluster = AgentCluster({"auto_retry": False}, strategy="pipeline")
    cluster.initialize_agents([{"id": "ada", "name": "Ada", "role": "Engineer", "capabilities": ["python"]}])
    [result] = cluster.execute_parallel([subtask("ingest", checks=["python3 ingest.py"])])
    assert result["result"]["strategy"] == "pipeline"
    assert result["result"]["files_created"] == ["ingest.py"]
