"""Every example is short and runs; those of the client against `openm3 serve` with the default model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from helpers.command import OPENM3

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
OF_CLIENT = sorted(FOLDER.glob("sdk/*.py"))
# What an example has to print: structure and receipts, not wit.
SAYS = {
    "analyze_codebase": ("refused: ", "don't fit into the window of 2,048", "read in "),
    "async_reviews": ("=== src/models.py: ", "ruff:E401", "eval", "quality ", "Task result: "),
    "basics": ("Completion: ", "Chat response: ", "Streaming code generation:"),
    "generate_rest_api": ("tokens, ended by ",),
    "generate_tests": ("verdict: ",),
    "progress": ("Progress: 100.0%", "in 24 tokens"),
    "refactor_project": ("2 files, about ", "files: ["),
    "retry_limit_cache": ("asked once, answered twice: True",),
    "with_requests": ("'object': 'chat.completion'",),
}


def run(path: Path, **environment: str) -> str:
    """What an example prints."""
    assert len(path.read_text().splitlines()) <= 40
    done = subprocess.run(
        [sys.executable, path],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    return done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_runs(path: Path) -> None:
    run(path)


@pytest.fixture(scope="module")
def base_url(default_model_path: Path) -> Generator[str, None, None]:
    """`openm3 serve` as users start it, on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [*OPENM3, "serve", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        address = f"http://127.0.0.1:{port}"
        try:
            while not answers(f"{address}/healthz"):
                assert server.poll() is None, server.stderr and server.stderr.read()
                time.sleep(0.1)
            yield f"{address}/v1"
        finally:
            server.terminate()
            server.communicate(timeout=30)


def answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("path", OF_CLIENT, ids=lambda path: path.stem)
def test_runs_against_a_server(path: Path, base_url: str) -> None:
    printed = run(path, MINIMAX_BASE_URL=base_url)
    for words in SAYS.get(path.stem, ()):
        assert words in printed
