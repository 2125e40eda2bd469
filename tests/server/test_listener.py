from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import httpx
import pytest

from helpers.live_server import eventually, live_server
from helpers.scripted import ScriptedService
from openm3.cli.serve import serve
from openm3.errors import InputError
from openm3.server.listener import listen, url

BODY: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "hi"}]}


def test_a_port_in_use_is_told_before_anything_else() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(InputError, match=f"--port: {port} is in use on 127.0.0.1"):
            listen("127.0.0.1", port)


def test_the_command_tells_a_port_in_use_before_it_looks_for_a_model() -> None:
    with listen("127.0.0.1", 0) as first, pytest.raises(InputError, match="--port"):
        port = str(first.getsockname()[1])
        serve.main(["--port", port, "--model", "no such model"], standalone_mode=False)


def test_a_port_that_was_just_left_can_be_taken_again() -> None:
    with listen("127.0.0.1", 0) as first, socket.create_connection(first.getsockname()):
        accepted, _ = first.accept()
        accepted.close()  # first on the server's side: the port lingers in TIME_WAIT
        port = first.getsockname()[1]
    with listen("127.0.0.1", port) as second:
        assert url(second) == f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine(host: str) -> None:
    with pytest.raises(InputError, match=f"--host: can't listen on {host}"):
        listen(host, 0)


def _post(base_url: str, answers: list[httpx.Response], **fields: Any) -> threading.Thread:
    """Posts in a thread; the response is appended to `answers`."""

    def post() -> None:
        answers.append(httpx.post(f"{base_url}/v1/chat/completions", json=BODY | fields, timeout=20))

    thread = threading.Thread(target=post)
    thread.start()
    return thread


@pytest.mark.parametrize("stream", [False, True])
def test_requests_that_end_in_time_are_answered_while_the_server_stops(stream: bool) -> None:
    service = ScriptedService(delay_s=0.1)
    answers: list[httpx.Response] = []
    with live_server(service, grace_s=5) as base_url:
        thread = _post(base_url, answers, stream=stream)
        assert eventually(lambda: len(service.requests) == 1)
    thread.join()
    assert answers[0].status_code == 200
    assert '"finish_reason":"stop"' in answers[0].text
    assert service.num_cancelled == 0


def test_the_rest_is_cancelled_with_an_error() -> None:
    service = ScriptedService(tokens=["x"] * 1000, delay_s=0.05)
    answers: list[httpx.Response] = []
    with live_server(service, grace_s=0.3) as base_url:
        threads = [_post(base_url, answers, stream=stream) for stream in (False, True)]
        assert eventually(lambda: len(service.requests) == 2)
        begin = time.monotonic()
    for thread in threads:
        thread.join()
    assert time.monotonic() - begin < 3
    whole, stream = sorted(answers, key=lambda answer: -answer.status_code)
    assert (whole.status_code, whole.json()["error"]["code"]) == (503, "cancelled")
    assert stream.status_code == 200
    *_, last, rest = stream.text.split("\n\n")
    assert last.startswith('data: {"error":')
    assert "the server is stopping" in last
    assert rest == ""


SCRIPT = """
import sys
from contextlib import suppress
from helpers.scripted import ScriptedService
from openm3.server.listener import Server, listen, url
from openm3.server.settings import Settings

with listen("127.0.0.1", 0) as listener, suppress(KeyboardInterrupt):
    ready = lambda: print(url(listener), flush=True)
    Server(ScriptedService(tokens=["x"] * 1000, delay_s=0.05), Settings(grace_s=0.2), on_ready=ready).run([listener])
"""


@pytest.mark.parametrize(("sign", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)])
def test_signals_stop_it_without_a_word(sign: signal.Signals, status: int) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "error", "-c", SCRIPT]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        base_url = process.stdout.readline().strip()
        asked = f"{base_url}/v1/chat/completions"
        with httpx.stream("POST", asked, json=BODY | {"stream": True}, timeout=20) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: "), "it is being answered"
            process.send_signal(sign)
            last = [line for line in lines if line][-1]
        _, errors = process.communicate(timeout=20)
    assert errors == ""
    assert process.returncode == status
    assert '"code":"cancelled"' in last
