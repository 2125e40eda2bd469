"""Workers as users have them: processes of their own, a model behind a socket, and the command line."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from click.testing import CliRunner

from helpers.memoryless import MemorylessModel
from minimax_code.cli.main import minimax_code
from minimax_code.errors import CodeError, InputError, StoreError
from minimax_code.jobs import Job, JobSpec, Update
from minimax_code.model import Reply, Request, ToolCall
from minimax_code.store import Store
from minimax_code.testing import ModelServer, ScriptedModel
from minimax_code.work.task import Task

KEY = "sk-not-to-be-stored"
TASK = Task(description="Add a line to the notes", checks=["grep -qx two notes.txt"])


class Gated(MemorylessModel):
    """Answers once the test lets it."""

    def __init__(self) -> None:
        self.asked, self.may_answer = threading.Event(), threading.Event()

    async def reply(self, request: Request) -> Reply:
        self.asked.set()
        assert self.may_answer.wait(60)
        return await super().reply(request)


@pytest.fixture
def model() -> Gated:
    return Gated()


@pytest.fixture
def store(tmp_path: Path) -> Generator[Store, None, None]:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "notes.txt").write_text("one\n")
    opened = Store(str(tmp_path / "data" / "jobs.db"))
    yield opened
    opened.close()


@pytest.fixture
def spec(model: Gated, tmp_path: Path) -> Generator[JobSpec, None, None]:
    with ModelServer(model) as server:
        yield JobSpec.of(TASK, folder=str(tmp_path / "source"), base_url=server.base_url, model=model.name)


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def worker_of(store: Store, job: Job) -> tuple[int, int]:
    """The process that starts workers, and the worker."""
    supervisor = int(str(store.job(job.id).owner).rpartition("-")[2])
    return supervisor, int(Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text())


def cli(store: Store, *arguments: str) -> str:
    done = CliRunner().invoke(minimax_code, ["jobs", *arguments], env={"MINIMAX_CODE_STORE": store.url})
    if isinstance(done.exception, CodeError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_a_worker_that_is_killed_is_replaced(store: Store, model: Gated, spec: JobSpec) -> None:
    updates: list[Update] = []
    job = Job.start(store, spec, api_key=KEY, notification_callback=updates.append)
    assert model.asked.wait(60)
    assert job.get_status().state == "running"
    supervisor, worker = worker_of(store, job)
    assert f"MINIMAX_API_KEY={KEY}" in Path(f"/proc/{worker}/environ").read_text().split("\0")
    os.kill(worker, signal.SIGKILL)
    model.may_answer.set()
    wait_for(lambda: job.is_complete)
    result = job.get_results()
    assert (result.success, result.files_changed) == (True, ("notes.txt",))
    status = job.get_status()
    assert (status.state, status.progress) == ("passed", 100)
    assert len(status.issues) == 1 and "was lost" in status.issues[0]
    assert updates[-1].message == "ended: passed"
    wait_for(lambda: not Path(f"/proc/{supervisor}").exists())
    kept = [path for path in Path(store.url).parent.rglob("*") if path.is_file()]
    assert len(kept) > 3
    assert not [path for path in kept if KEY.encode() in path.read_bytes()]


def test_the_command_line(store: Store, model: Gated, spec: JobSpec) -> None:
    assert "no jobs yet" in cli(store)
    job = Job(store, store.create(spec.model_dump(mode="json")))
    store.lease(job.id, "died a moment ago", 1.0)
    cli(store, "resume", job.id)
    assert model.asked.wait(60)
    assert cli(store, "pause", job.id) == "pausing\n"
    model.may_answer.set()
    wait_for(lambda: job.get_status().state == "paused")
    assert "state     paused" in cli(store, "show", job.id)
    listed = json.loads(cli(store, "--json"))
    assert [(one["id"], one["state"]) for one in listed] == [(job.id, "paused")]

    assert cli(store, "resume", job.id) == "running\n"
    assert cli(store, "follow", job.id).splitlines()[-1].endswith("100%  ended: ended: passed")
    kinds = [json.loads(line)["kind"] for line in cli(store, "follow", job.id, "--json").splitlines()]
    assert (kinds[0], kinds[-1], kinds.count("WorkerStarted")) == ("WorkerStarted", "TaskEnded", 2)
    assert f"{job.id}  passed" in cli(store)
    assert "result    passed: 0 files created, 1 changed" in cli(store, "show", job.id)
    shown = json.loads(cli(store, "show", job.id, "--json"))
    assert (shown["progress"], shown["result"]["state"]) == (100, "passed")
    with pytest.raises(StoreError, match="is passed: it can't be changed any more"):
        cli(store, "pause", job.id)
    with pytest.raises(InputError, match="there is no job-0"):
        cli(store, "show", "job-0")


def test_a_job_that_can_not_be_done_is_paused(store: Store, spec: JobSpec, tmp_path: Path) -> None:
    """Trying again would change nothing, so its user is told."""
    job = Job.start(store, spec.model_copy(update={"folder": str(tmp_path / "gone")}))
    wait_for(lambda: job.get_status().state == "paused")
    assert job.get_status().issues == (f"folder: {tmp_path / 'gone'} is not there any more",)
    assert cli(store, "cancel", job.id) == "cancelled\n"
    assert job.is_complete


def test_a_job_that_the_command_line_starts(store: Store, model: Gated, spec: JobSpec, tmp_path: Path) -> None:
    model.may_answer.set()
    about = ["--folder", str(tmp_path / "source"), "--check", "grep -qx two notes.txt", "--days", "2"]
    server = ["--base-url", str(spec.base_url), "--model", model.name]
    job = Job(store, cli(store, "start", "Add a line to the notes", *about, *server).strip())
    wait_for(lambda: job.is_complete)
    assert job.get_results().success
    assert store.job(job.id).spec["task"]["max_duration_days"] == 2


def test_an_address_with_a_password_is_refused() -> None:
    with pytest.raises(InputError, match="^base_url: has a password in it"):
        JobSpec.of(TASK, base_url="http://me:secret@localhost/v1")


def test_a_job_whose_budget_is_used_up_is_given_more(store: Store, model: Gated, spec: JobSpec) -> None:
    model.may_answer.set()
    few = TASK.model_copy(update={"constraints": {"budget_limit": "2 API calls"}})
    job = Job.start(store, spec.model_copy(update={"task": few.model_dump(mode="json")}))
    wait_for(lambda: job.get_status().state == "budget")
    with pytest.raises(InputError, match="^time: the task has no limit on time"):
        cli(store, "resume", job.id, "--time", "1 hour")
    assert job.get_status().state == "budget"
    cli(store, "resume", job.id, "--budget", "50 API calls")
    wait_for(lambda: job.get_status().state == "passed")
    assert job.get_results().success
    assert store.job(job.id).spec["task"]["constraints"] == {"budget_limit": "52 calls"}
    with pytest.raises(StoreError, match="is passed: more is given to a job that has used up"):
        cli(store, "resume", job.id, "--budget", "50 API calls")


SHOP = """
import os
from mcp.server.mcpserver import MCPServer

server = MCPServer("shop")

@server.tool()
def price(name: str) -> str:
    return f"{name}: {os.environ['SHOP_TOKEN'][::-1]}"

server.run()
"""


def test_a_job_keeps_its_servers_of_tools_and_no_secret(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    settings = tmp_path / "config.toml"
    command = json.dumps([sys.executable, str(tmp_path / "shop.py")])
    settings.write_text(f"permissions = ['allow mcp__shop__*']\n[mcp.shop]\ncommand = {command}\n")
    monkeypatch.setenv("MINIMAX_CODE_CONFIG", str(settings))
    secret = f"env = {{ SHOP_TOKEN = '{KEY}' }}\n"
    ask = ToolCall(id="1", name="mcp__shop__price", arguments='{"name": "tea"}')
    write = ToolCall(id="2", name="bash", arguments='{"command": "echo two >> notes.txt"}')
    scripted = ScriptedModel(["1. Write notes.txt", ask, write, "It is written.", "VERDICT: PASS"])
    plain = settings.read_text()
    settings.write_text(plain + secret)
    with ModelServer(scripted) as server:
        about = ["--folder", str(tmp_path / "source"), "--check", "grep -qx two notes.txt"]
        job = Job(store, cli(store, "start", "Add a line", *about, "--base-url", server.base_url).strip())
        wait_for(lambda: job.is_complete)
    assert job.get_results().success, job.get_results()
    [told] = [message.content for message in scripted.requests[2].messages if message.role == "tool"]
    assert told == f"tea: {KEY[::-1]}"
    [kept] = store.job(job.id).spec["servers"]
    assert (kept["name"], kept["command"], kept["env"]) == ("shop", json.loads(command), ["SHOP_TOKEN"])

    again = Job(store, store.create(store.job(job.id).spec))
    settings.write_text(plain)
    cli(store, "resume", again.id)
    wait_for(lambda: again.get_status().state == "paused")
    assert again.get_status().issues[0].startswith("mcp.shop.env: SHOP_TOKEN is missing")
    again.cancel()
    store.close()  # reading its files would end its locks
    files = [path for path in Path(store.url).parent.rglob("*") if path.is_file()]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
