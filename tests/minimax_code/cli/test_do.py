"""The command line as its user has it: a folder, a model's server on a socket, and what is printed."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

import pyte
import pytest

from helpers.agents import call
from helpers.shop import DONE, FIX, PASS, PLAN, RIGHT, TASK, User
from minimax_code.testing import Line, ModelServer, ScriptedModel


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


def test_a_task_is_done_shown_and_applied_when_the_user_says_so(user: User) -> None:
    ran = user.asks([PLAN, FIX, DONE, PASS], TASK, "--check", "python3 check.py")
    assert (ran.returncode, ran.stderr) == (0, ""), ran
    assert "worker: write cart.py" in ran.stdout
    assert "+    return sum(prices)" in ran.stdout
    assert "passed: 0 files created, 1 changed" in ran.stdout
    assert user.git("status", "--short") == ""
    job = ran.stdout.rsplit("minimax-code apply ", 1)[1].split("`")[0]

    branched = user.types("apply", job, "--branch", "fix/total")
    assert branched.returncode == 0, branched
    assert user.git("status", "--short") == ""
    assert user.git("log", "--format=%s", "main..fix/total") == f"{TASK}\n"
    assert "sum(prices)" in user.git("show", "fix/total:cart.py")
    assert "already exists" in user.types("apply", job, "--branch", "fix/total").stderr

    applied = user.types("apply", job)
    assert (applied.stdout, (user.shop / "cart.py").read_text()) == ("changed cart.py\n", RIGHT)
    user.lay("cart.py", "def total(prices):\n    return min(prices)\n")
    again = user.types("apply", job)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith("error: the change doesn't fit to the files of today")
    assert "min(prices)" in (user.shop / "cart.py").read_text()


def test_exec_prints_events_and_then_the_result(user: User) -> None:
    ran = user.asks([PLAN, FIX, DONE, PASS], "exec", TASK, "--check", "python3 check.py")
    assert (ran.returncode, ran.stderr) == (0, ""), ran
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line["seq"] for line in lines[:-1]] == list(range(1, len(lines)))
    assert {"WorkerStarted", "TaskBegan", "ToolEnded", "TaskEnded"} <= {line["kind"] for line in lines}
    result = lines[-1]
    assert (result["kind"], result["state"], result["success"]) == ("result", "passed", True)
    assert result["files_changed"] == ["cart.py"]


def test_what_isnt_done_isnt_applied_unless_forced(user: User) -> None:
    wrong = call("write", path="cart.py", content="def total(prices):\n    return 1\n")
    ran = user.asks([PLAN, *([wrong, DONE] * 3)], "exec", TASK, "--check", "python3 check.py")
    assert ran.returncode == 3, ran
    result = json.loads(ran.stdout.splitlines()[-1])
    assert (result["state"], result["success"]) == ("failed", False)
    refused = user.types("apply", result["job"])
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "is failed, so nothing proves its change; --force applies it still" in refused.stderr
    assert user.types("apply", result["job"], "--force").returncode == 0
    assert "return 1" in (user.shop / "cart.py").read_text()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("exec", TASK, "--base-url", "nonsense"), "error: base_url: 'nonsense' is no address"),
        (("exec", TASK, "--python", "nowhere"), "error: python: nowhere is no interpreter"),
        (("review", "main..HEAD", "--repo", "/usr"), "error: /usr is no git repository; name one with --repo"),
        (("exec", TASK, "--budget", "much"), "error: constraints.budget_limit: 'much' is no budget"),
        (("exec", TASK, "--rule", "permit all"), "error: permissions: 'permit all' is no rule"),
        (("apply", "job-1"), "error: job: there is no job-1 in"),
        (("exec", TASK, "--base-url", "http://127.0.0.1:9/v1"), "no server answers at http://127.0.0.1:9"),
    ],
)
def test_what_cant_be_done_is_a_sentence(user: User, args: tuple[str, ...], said: str) -> None:
    ran = user.types(*args)
    assert (ran.returncode, said in ran.stderr, "Traceback" in ran.stderr) == (1, True, False), ran


def test_settings_are_the_users_and_a_key_that_isnt_understood_is_refused(user: User) -> None:
    (user.root / "config.toml").write_text('permissions = ["deny write(cart.py)"]\n')
    ran = user.asks([PLAN, FIX, "I may not.", "VERDICT: PARTIAL"] * 2, "exec", TASK, "--check", "true")
    assert "the rule 'deny write(cart.py)' forbids it" in ran.stdout
    (user.root / "config.toml").write_text('permision = "allow *"\n')
    assert "config.toml: permision: Extra inputs are not permitted" in user.types("exec", TASK).stderr


def test_doctor_tells_what_is_used(user: User) -> None:
    ran = user.asks([], "doctor")
    assert ran.returncode == 0, ran
    assert ran.stdout.startswith("* bubblewrap  own namespaces, no network")
    assert "+ model       scripted at 127.0.0.1: 32,768 tokens, calls tools, follows schemas" in ran.stdout
    lonely = user.types("doctor", "--base-url", "http://127.0.0.1:9/v1")
    assert (lonely.returncode, "- model       " in lonely.stdout) == (1, True)


class Terminal:
    """A program on a terminal of its own, and what it shows there: all of it, and what would be seen now."""

    def __init__(self, command: list[str], user: User, **environment: str) -> None:
        self._screen = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self._screen)
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 80))
        own = {**user.environment, "TERM": "xterm", **environment}
        del own["COLUMNS"]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=own, cwd=user.shop, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self.bytes = b""

    @property
    def shown(self) -> str:
        return self.bytes.decode(errors="replace")

    @property
    def seen(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display]

    def wait_for(self, text: str, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < until, self.shown[-2000:]
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    new = os.read(self.master, 65536)
                except OSError:  # it has ended
                    assert text in self.shown, self.shown[-2000:]
                self.bytes += new
                self._stream.feed(new)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())


@contextmanager
def at_terminal(user: User, script: Iterable[Line], *args: str, **environment: str) -> Generator[Terminal, None, None]:
    with ModelServer(ScriptedModel(script)) as server:
        command = user.command(TASK, "--check", "python3 check.py", *args, "--base-url", server.base_url)
        terminal = Terminal(command, user, **environment)
        yield terminal
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)


def test_on_a_terminal_the_user_sees_the_work_and_is_asked(user: User) -> None:
    plan = "\n".join(f"{i}. Mend total() of {i} {'and so on ' * 10}" for i in range(1, 12))
    script = [plan, call("bash", command="echo one"), FIX, DONE, PASS]
    with at_terminal(user, script, "--rule", "ask bash") as terminal:
        terminal.wait_for("worker wants to call bash:")
        terminal.wait_for("[a]lways: allow bash(echo *)")
        assert terminal.seen[:3] == ["", "worker wants to call bash:", "    echo one"], "what changes is put aside"
        terminal.type("what?\n")
        terminal.type("y\n")
        terminal.wait_for("changes them")
        for part in ("plan", "Mend total()", "agents", "worker", "tokens", "log", "return sum(prices)", "passed:"):
            assert part in terminal.shown, part
        assert terminal.process.wait(timeout=20) == 0
        assert sum("─ log ─" in line for line in terminal.seen) == 1, "nothing is there twice"


@pytest.mark.parametrize("at", ["question", "call"])
def test_ctrl_c_leaves_the_task_in_the_store_and_says_how_to_go_on(user: User, at: str) -> None:
    script = [PLAN, call("bash", command="sleep 60")]
    with at_terminal(user, script, "--rule", "ask bash", NO_COLOR="1", PYTHONIOENCODING="latin-1") as terminal:
        terminal.wait_for("[a]lways")
        if at == "call":
            terminal.type("y\n")
            terminal.wait_for("allowed by the user")
        terminal.type("\x03")
        terminal.wait_for("goes on with it")
        terminal.wait_for("interrupted")
        assert terminal.process.wait(timeout=20) == 130
        assert "\x1b[3" not in terminal.shown, "no colours"
        assert any(line.startswith("+- log ---") for line in terminal.seen), "letters that its encoding has"
    job = terminal.shown.rsplit("minimax-code jobs resume ", 1)[1].split("`")[0]
    header, line = user.types("jobs").stdout.splitlines()
    assert header.split() == ["JOB", "STATE", "PHASE", "DONE", "AGE", "TASK"]
    assert line.split()[:4] == [job, "crashed_resumable", "work", "15%"] and line.endswith(TASK)
    [listed] = json.loads(user.types("jobs", "--json").stdout)
    told = (listed["id"], listed["phase"], listed["progress"], listed["description"])
    assert told == (job, "work", 15.0, TASK)


def test_when_nobody_reads_what_it_prints_the_work_ends_and_is_kept(user: User) -> None:
    with ModelServer(ScriptedModel([PLAN, call("bash", command="sleep 60")])) as server:
        command = user.command("exec", TASK, "--check", "python3 check.py", "--base-url", server.base_url)
        with subprocess.Popen(
            command, env=user.environment, cwd=user.shop, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout and process.stderr
            process.stdout.readline()
            process.stdout.close()
            assert (process.wait(timeout=30), process.stderr.read()) == (1, b"")
    [listed] = json.loads(user.types("jobs", "--json").stdout)
    assert listed["state"] == "crashed_resumable"


def test_a_worker_has_another_agent_do_a_part(user: User) -> None:
    part = call("delegate", task="Mend total() in cart.py")
    ran = user.asks([PLAN, part, FIX, "I mended it.", DONE, PASS], "exec", TASK, "--check", "python3 check.py")
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    started = [line["data"]["agent"] for line in lines if line["kind"] == "AgentStarted"]
    assert [name.split("/")[0] for name in started[:2]] == ["worker", "worker"] and "/" in started[1]
    assert (ran.returncode, lines[-1]["state"]) == (0, "passed"), ran


def test_a_review_that_finds_something_ends_with_1(user: User) -> None:
    """As a process of its own: that is what stops somebody's pipeline."""
    user.lay("cart.py", "def total(prices:\n    return 0\n")
    user.git("commit", "-qam", "second")
    ran = user.types("review", "HEAD~1..HEAD", "--facts-only")
    assert (ran.returncode, ran.stderr) == (1, ""), ran
    assert "**high** `cart.py" in ran.stdout
    user.lay("cart.py", RIGHT)
    user.git("commit", "-qam", "third")
    assert user.types("review", "HEAD~1..HEAD", "--facts-only").returncode == 0
