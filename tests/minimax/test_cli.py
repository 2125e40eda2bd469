"""The `minimax` command in processes of its own, against a real server on a socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from helpers.live_server import live_server
from openm3.config import EngineConfig
from openm3.engine.llm import LLM
from openm3.engine.service import Service


@pytest.fixture(scope="module")
def base_url(tiny_model: Path) -> Generator[str, None, None]:
    with live_server(Service(LLM(tiny_model, EngineConfig(dtype="float32")))) as url:
        yield f"{url}/v1"


def minimax(*arguments: str, base_url: str = "", stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MINIMAX_BASE_URL": base_url}
    command = [sys.executable, "-c", "from minimax.cli import main; main()", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, check=False)


def test_chat_streams_words_and_pipes(base_url: str) -> None:
    done = minimax("chat", "-n", "8", "hi", base_url=base_url, stdin="and a pipe")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    as_json = minimax("chat", "--json", "-n", "8", "hi", base_url=base_url)
    assert json.loads(as_json.stdout)["choices"][0]["finish_reason"] in ("length", "stop")


def test_complete(base_url: str) -> None:
    done = minimax("complete", "--json", "-n", "4", "once", base_url=base_url)
    assert json.loads(done.stdout)["usage"]["completion_tokens"] <= 4, done.stderr


def test_tests_say_that_nothing_was_run(base_url: str, tmp_path: Path) -> None:
    (tmp_path / "slug.py").write_text("def slug(text): ...\n")
    done = minimax("tests", "-n", "8", str(tmp_path / "slug.py"), base_url=base_url)
    assert done.returncode == 0, done.stderr
    assert "nothing was run" in done.stderr


def test_explain(base_url: str, tmp_path: Path) -> None:
    (tmp_path / "slug.py").write_text("def slug(text): ...\n")
    done = minimax("explain", "--json", "-n", "8", str(tmp_path / "slug.py"), base_url=base_url)
    assert json.loads(done.stdout)["num_parts"] == 1, done.stderr


def test_a_review_fails_a_build_where_it_is_told_to(base_url: str, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def f(:\n")
    (tmp_path / "good.py").write_text("x = 1\n")
    bad = minimax("review", str(tmp_path / "bad.py"), base_url=base_url)
    assert bad.returncode == 3, bad.stderr
    assert "bad.py:1: high: " in bad.stdout
    assert minimax("review", "--fail-on", "never", str(tmp_path / "bad.py"), base_url=base_url).returncode == 0
    good = minimax("review", "--json", str(tmp_path / "good.py"), base_url=base_url)
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["quality_score"] == 100


def test_usage(base_url: str) -> None:
    done = minimax("usage", base_url=base_url)
    assert json.loads(done.stdout)["data"] == [], "an open server counts for nobody"


def test_exit_codes() -> None:
    nobody = minimax("chat", "hi", base_url="http://127.0.0.1:9/v1")
    assert nobody.returncode == 1
    assert nobody.stderr.startswith("error: no server answers at http://127.0.0.1:9; start one with `openm3 serve`")
    assert minimax("chat").returncode == 2
    assert minimax("review", "none.py").returncode == 2
