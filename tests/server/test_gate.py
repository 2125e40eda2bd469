"""What is too much is refused at once, what takes too long ends, and what never arrives or is never read is cut."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import httpx
import pytest

from helpers.live_server import eventually, live_server
from helpers.scripted import ScriptedService

BODY: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "hi"}]}
PATH = "/v1/chat/completions"


class Queue(ScriptedService):
    """Lets `num_slots` requests in at a time; the others wait without a word."""

    num_slots = 2

    async def stream(self, *args: Any) -> Any:
        while self.status().running >= self.num_slots:
            await asyncio.sleep(0.01)
        async for event in super().stream(*args):
            yield event


def _address(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


def test_beyond_the_queue_requests_are_refused_at_once_and_all_others_answered() -> None:
    service = Queue(tokens=["x"] * 5, delay_s=0.1)
    service.num_slots = 0

    async def ask_all(url: str) -> list[httpx.Response]:
        """The answers as they come. Nobody is served before 24 are there: so these waited for nobody."""
        answers = list[httpx.Response]()
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            for answer in asyncio.as_completed([client.post(PATH, json=BODY) for _ in range(30)]):
                answers.append(await answer)
                service.num_slots = 2 if len(answers) >= 24 else 0
        return answers

    with live_server(service, max_waiting=6) as url:
        refused, *_ = answers = asyncio.run(ask_all(url))
        assert [answer.status_code for answer in answers] == [529] * 24 + [200] * 6
        assert refused.json()["error"]["code"] == "overloaded"
        assert int(refused.headers["retry-after"]) > 0
        assert httpx.post(f"{url}{PATH}", json=BODY).status_code == 200  # nobody's place was lost


def test_places_come_back_when_clients_go_away() -> None:
    service = Queue(tokens=["x"] * 500, delay_s=0.1)
    service.num_slots = 0
    with live_server(service, max_waiting=1) as url:
        for _ in range(3):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{url}{PATH}", json=BODY, timeout=0.2)
            assert eventually(lambda: httpx.get(f"{url}/healthz").json()["waiting"] == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_takes_too_long(stream: bool) -> None:
    service = ScriptedService(tokens=["x"] * 1000, delay_s=0.02)
    with live_server(service, request_s=0.2) as url:
        response = httpx.post(f"{url}{PATH}", json=BODY | {"stream": stream})
        assert response.status_code == (200 if stream else 504)
        assert '"code":"timeout"' in response.text
        assert "longer than 0.2 seconds" in response.text
        assert eventually(lambda: service.num_cancelled == 1)


def _answer_to(url: str, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """What the server says to bytes that come one part after the other, until it closes."""
    said = b""
    with socket.create_connection(_address(url), timeout=5) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause_s)
        while data := connection.recv(65536):
            said += data
    return said


def test_a_head_that_never_ends_is_cut() -> None:
    with live_server(ScriptedService(), head_s=0.2) as url:
        for parts in ([b""], [b"GET /healthz HTTP/1.1\r\nx: "], [b"G", b"E", b"T"]):
            began = time.monotonic()
            with pytest.raises(ConnectionResetError):
                assert not _answer_to(url, *parts)
                raise ConnectionResetError
            assert 0.1 < time.monotonic() - began < 1


def test_a_second_head_that_never_ends_is_cut_too() -> None:
    with live_server(ScriptedService(), head_s=0.2) as url, httpx.Client(base_url=url) as client:
        assert client.get("/healthz").status_code == 200
        with socket.create_connection(_address(url), timeout=2) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            connection.sendall(b"GET /heal")
            with pytest.raises(ConnectionResetError):
                while connection.recv(65536):
                    pass
                raise ConnectionResetError
        time.sleep(0.3)
        assert client.get("/healthz").status_code == 200  # idle, but with nothing begun


def test_a_body_that_never_ends_is_told_so() -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 999\r\n\r\n"
    with live_server(ScriptedService(), body_s=0.2) as url:
        said = _answer_to(url, head, b"{", b" ")
        assert said.startswith(b"HTTP/1.1 408")
        assert b"body_too_slow" in said


def test_a_client_that_never_reads_is_cut() -> None:
    service = ScriptedService(tokens=["x" * 1_000_000] * 100)
    body = b'{"model": "default", "messages": [{"role": "user", "content": "x"}], "stream": true}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with (
        live_server(service, send_s=0.3) as url,
        socket.create_connection(_address(url)) as connection,
    ):
        connection.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        assert eventually(lambda: len(service.requests) == 1)
        assert eventually(lambda: service.status().running == 0, within_s=15)
        assert connection.fileno() >= 0  # which the client itself never closed
