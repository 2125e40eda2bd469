"""The examples of MiniMax Code run against a server on a socket whose model says what a script says."""

from __future__ import annotations

import itertools
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from helpers.commits import Commits
from helpers.forge import serving
from minimax_code.model import Request, ToolCall
from minimax_code.skills.calibration import Calibration, default_cache, keep_calibration
from minimax_code.testing import ModelServer, ScriptedModel
from minimax_code.workbench import testrun

FOLDER = Path(__file__).parents[2] / "examples" / "code"


def answer(request: Request) -> str | ToolCall:
    """Writes a test of a module named like the test, then the module; of pipelines and designs it knows no test."""
    system = request.messages[0].content
    if "You plan" in system:
        return "1. Write the module"
    if "You verify" in system:
        return "VERDICT: PASS"
    path = (re.findall(r"tests/test_(\w+)\.py", system) or ["notes"])[0]
    if "You write the acceptance test" in system:
        if not re.search("scraper|backend", path):
            return "I can't think of a test."
        return f"```python\nfrom {path} import work\n\n\ndef test_work():\n    assert work(2) == 42\n```"
    if any(message.role == "tool" for message in request.messages):
        return "It is written."
    content = json.dumps({"path": f"{path}.py", "content": "def work(more):\n    return 40 + more\n"})
    return ToolCall(id="1", name="write", arguments=content)


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[None, None, None]:
    monkeypatch.setitem(testrun._ENV, "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # type: ignore[index]
    monkeypatch.setenv("MINIMAX_CODE_STORE", str(tmp_path / "jobs.db"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    drives = Calibration(model="scripted at 127.0.0.1", call_style="native", strategy="agent")
    keep_calibration(drives, default_cache())
    with ModelServer(ScriptedModel(itertools.repeat(answer))) as server:
        monkeypatch.setenv("MINIMAX_BASE_URL", server.base_url)
        yield


def run(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert len((FOLDER / name).read_text().splitlines()) <= 80
    runpy.run_path(str(FOLDER / name))
    return capsys.readouterr().out


def test_a_single_task(capsys: pytest.CaptureFixture[str]) -> None:
    said = run("single_task.py", capsys)
    assert "Task completed: True (passed)" in said
    files = "('create_a_web_scraper_for.py', 'tests/test_create_a_web_scraper_for.py')"
    assert f"Files created: {files}\nTests passed: 1\n" in said


def test_a_team(capsys: pytest.CaptureFixture[str]) -> None:
    """Every phase is in the project; a second run finds them done, and says the same."""
    said = run("team.py", capsys)
    parts = ("Architecture Design, merged: partial", "Backend Development, merged: passed")
    parts += ("Frontend Development, merged: partial", "Testing & QA, merged: partial")
    assert all(part in said for part in parts), said
    project = Path(said.split("The project is in ")[1].strip())
    assert len(list(project.glob("tests/test_*.py"))) == 1
    assert run("team.py", capsys) == said


def test_a_job_for_days() -> None:
    """As a program of its own: the job's worker is another one yet. Without a test nothing is called a success."""
    command = [sys.executable, str(FOLDER / "autonomous.py"), "0.2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "Success: False (partial)\nDeliverables: ('notes.py',)\n" in done.stdout
    assert "Current phase: " in done.stdout and "] work: " in done.stdout


def test_a_review(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    commits = Commits(tmp_path / "repository")
    base = commits.commit("base", {"shop.py": "def total(prices):\n    return sum(prices)\n"})
    head = commits.commit("head", {"shop.py": "def total(prices):\n    return eval(prices)\n"})
    with serving(commits, tmp_path / "served", base, head) as forge:
        monkeypatch.setattr(sys, "argv", ["review.py", forge.url, "7"])
        said = run("review.py", capsys)
    assert "Files reviewed: 1\n" in said
    assert "shop.py:2" in said
    assert "eval" in said
