"""A client that goes away frees its request, whatever the server is doing for it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI

from helpers.live_server import eventually, live_server
from helpers.scripted import ScriptedService

HI: list[Any] = [{"role": "user", "content": "hi"}]


def test_one_of_16_streams_is_closed_in_the_middle() -> None:
    service = ScriptedService(tokens=["x"] * 20, delay_s=0.02)

    async def ask(client: AsyncOpenAI, leave_after: int) -> int:
        num_received = 0
        async with await client.chat.completions.create(model="default", messages=HI, stream=True) as stream:
            async for _ in stream:
                num_received += 1
                if num_received == leave_after:
                    break
        return num_received

    async def ask_all(url: str) -> list[int]:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, 5 if number == 3 else 99) for number in range(16)))

    with live_server(service) as url:
        received = asyncio.run(ask_all(url))
        assert received == [5 if number == 3 else 21 for number in range(16)]
        assert eventually(lambda: service.num_cancelled == 1)


@pytest.mark.parametrize("n", [1, 4])
def test_a_stream_frees_all_its_choices(n: int) -> None:
    service = ScriptedService(tokens=["x"] * 1000, delay_s=0.01)
    with live_server(service) as url, OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        with client.chat.completions.create(model="default", messages=HI, n=n, stream=True) as stream:
            next(iter(stream))
        assert eventually(lambda: service.num_cancelled == n)
        assert service.status().running == 0


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_a_whole_answer_that_nobody_waits_for(path: str) -> None:
    service = ScriptedService(tokens=["x"] * 1000, delay_s=0.01)
    body = {
        "model": "default",
        **({"messages": HI} if "chat" in path else {"prompt": "x", "max_tokens": 1000}),
    }
    with live_server(service) as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/{path}", json=body, timeout=0.2)
        assert eventually(lambda: service.num_cancelled == 1)


def test_a_stream_that_is_not_admitted_yet() -> None:
    class Busy(ScriptedService):
        async def stream(self, *args: Any) -> Any:
            try:
                await asyncio.sleep(60)
                yield
            finally:
                self.num_cancelled += 1

    service = Busy()
    body = {"model": "default", "messages": HI, "stream": True}
    with live_server(service) as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/chat/completions", json=body, timeout=0.2)
        assert eventually(lambda: service.num_cancelled == 1)


def test_a_client_that_never_reads_and_then_goes_away() -> None:
    service = ScriptedService(tokens=["x" * 10_000] * 5000)
    body = b'{"model": "default", "messages": [{"role": "user", "content": "x"}], "stream": true}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with live_server(service) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            assert eventually(lambda: len(service.requests) == 1)
            assert httpx.get(f"{url}/healthz").status_code == 200
        assert eventually(lambda: service.status().running == 0)
