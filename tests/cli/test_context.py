"""`openm3 context` and `ask --load` as users run them; what one process has read another one asks."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.command import openm3, openm3_process, start_openm3

Command = Callable[..., subprocess.CompletedProcess[str]]
GEOMETRY = ("--block-size", "16", "--blocks", "3", "--attention", "sparse", "--window", "4096")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENM3_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.py").write_text("def answer():\n    return 42\n" * 20)
    (folder / "b.txt").write_text("The sea is calm tonight.\n" * 20)
    return folder


def ok(*args: str | Path, run: Command = openm3) -> subprocess.CompletedProcess[str]:
    done = run(*args)
    assert done.returncode == 0, done.stderr
    return done


def test_read_once_and_asked_in_other_processes(home: Path, files: Path, tiny_model: Path) -> None:
    saved = ok("context", "save", "sea", "-c", files, "-m", tiny_model, *GEOMETRY, run=openm3_process)
    assert saved.stdout.strip() == str(home / "contexts" / "sea.context")
    ask = ("ask", "How calm is it?", "--max-tokens", "8")
    loaded = ok(*ask, "--load", "sea", run=openm3_process)
    assert loaded.stdout == ok(*ask, "-c", files, "-m", tiny_model, *GEOMETRY).stdout
    assert "sea: 1,1" in loaded.stderr and " tokens, " in loaded.stderr
    assert " of them known from before" in loaded.stderr
    ok("context", "load", "sea")
    refused = openm3(*ask, "--load", "sea", "--blocks", "5")
    assert refused.returncode == 1
    assert "was read differently: sparse" in refused.stderr
    both = openm3(*ask, "--load", "sea", "-c", files)
    assert "--load: brings its own files; leave --context and --image out" in both.stderr


def test_what_is_kept_is_listed_shown_and_removed(home: Path, files: Path, tiny_model: Path) -> None:
    assert "no contexts yet" in ok("context", "list").stderr
    ok("context", "save", "sea", "-c", files, "-m", tiny_model, *GEOMETRY)
    assert ok("context", "list").stdout.startswith("sea  1,")
    [listed] = json.loads(ok("context", "list", "--json").stdout)
    assert listed["name"] == "sea" and listed["options"]["window"] == 4096
    shown = json.loads(ok("context", "show", "sea", "--json").stdout)
    assert [(each["path"].split("/")[-1], each["num_bytes"]) for each in shown["files"]] == [
        ("a.py", 560),
        ("b.txt", 500),
    ]
    assert [each["stop"] - each["start"] for each in shown["files"]] == [560, 500], "a token is a byte"
    assert "b.txt" in ok("context", "show", "sea").stdout
    ok("context", "rm", "sea")
    assert json.loads(ok("context", "list", "--json").stdout) == []
    gone = openm3("ask", "--load", "sea", "What?")
    assert gone.returncode == 1
    assert gone.stderr == "error: NAME: there is no context 'sea' yet\n"


def test_what_was_added_is_read_and_the_rest_is_not(home: Path, files: Path, tiny_model: Path) -> None:
    save = ("context", "save", "sea", "-c", files, "-m", tiny_model, *GEOMETRY)
    ok(*save)
    (files / "aa.txt").write_text("Come to the window, sweet is the night-air!\n")  # sorted before b.txt
    again = ok(*save)
    read = next(line for line in again.stderr.splitlines() if "tokens read in" in line)
    assert int(read.split()[0].replace(",", "")) < 200
    shown = json.loads(ok("context", "show", "sea", "--json").stdout)
    assert [each["path"].split("/")[-1] for each in shown["files"]] == ["a.py", "b.txt", "aa.txt"]
    (files / "a.py").write_text("nothing\n")
    ok(*save)
    shown = json.loads(ok("context", "show", "sea", "--json").stdout)
    assert [each["path"].split("/")[-1] for each in shown["files"]] == ["a.py", "aa.txt", "b.txt"]


def test_a_name_that_is_none_is_told_before_anything_is_read(home: Path, files: Path) -> None:
    refused = openm3("context", "save", "../sea", "-c", files, "-m", "/no/model")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: NAME: '../sea' is no name")


def test_ctrl_c_while_reading_saves_nothing(home: Path, files: Path, tiny_model: Path) -> None:
    (files / "c.txt").write_text("Listen! you hear the grating roar.\n" * 20_000)
    command = ["context", "save", "sea", "-c", files, "-m", tiny_model, *GEOMETRY[:-1], "1000000", "--threads", "1"]
    process = start_openm3(*command)
    assert process.stderr
    while b"files" not in process.stderr.readline():
        pass
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"interrupted; nothing was saved" in errors
    assert not list((home / "contexts").glob("*")) if (home / "contexts").exists() else True


def test_a_conversation_about_it(home: Path, files: Path, tiny_model: Path) -> None:
    ok("context", "save", "sea", "-c", files, "-m", tiny_model, *GEOMETRY)
    chat = ("chat", "--load", "sea", "--max-tokens", "8", "-t", "0", "--frequency-penalty", "0.5")
    done = openm3(*chat, given="How calm is it?\n")
    asked = ok("ask", "How calm is it?", "--max-tokens", "8", "--load", "sea")
    assert done.stdout == asked.stdout
    refused = openm3("chat", "--load", "sea", "--system", "Be brief.")
    assert refused.returncode == 1
    assert "--system: would come before the context" in refused.stderr
