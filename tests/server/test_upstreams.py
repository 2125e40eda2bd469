"""Upstreams on real sockets: our own server, and others that misbehave as a script says."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from openai import NotFoundError, OpenAI

from helpers.live_server import eventually, live_server
from helpers.raw_server import raw_server
from helpers.scripted import ScriptedService
from openm3.errors import InputError
from openm3.server.settings import Settings
from openm3.server.upstreams.told import Told
from openm3.server.upstreams.upstream import Upstream, parse_names

HI: list[Any] = [{"role": "user", "content": "hi"}]
BODY: dict[str, Any] = {"model": "scripted", "messages": HI}
PATH = "/v1/chat/completions"


@contextmanager
def gateway(*urls: str, **settings: Any) -> Generator[str, None, None]:
    """A server without a model of its own, before these."""
    with live_server(None, upstreams=urls, **settings) as url:
        yield url


def refuses(status: int) -> Callable[[bytes, socket.socket], None]:
    """Answers everything with a status."""

    def answer(head: bytes, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 %d X\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}" % status)

    return answer


def breaks_off_after(events: bytes) -> Callable[[bytes, socket.socket], None]:
    """Begins a stream that has no end."""

    def answer(head: bytes, connection: socket.socket) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        connection.sendall(head + (b"%x\r\n%s\r\n" % (len(events), events) if events else b""))

    return answer


def test_the_official_client_sees_no_difference() -> None:
    with live_server(ScriptedService()) as direct, gateway(direct) as through:
        said = []
        for url in (direct, through):
            with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
                whole = client.chat.completions.create(model="default", messages=HI)
                chunks = list(client.chat.completions.create(model="default", messages=HI, stream=True))
                text = client.completions.create(model="scripted", prompt="x").choices[0].text
                with pytest.raises(NotFoundError):
                    client.chat.completions.create(model="other", messages=HI)
                models = [model.id for model in client.models.list()]
                pieces = [chunk.choices[0].delta.content for chunk in chunks]
                said.append((whole.choices[0].message.content, whole.usage, pieces, text, models))
        assert said[0] == said[1]
        assert said[1][4] == ["scripted"]


def test_a_wrong_request_is_refused_in_the_upstreams_words() -> None:
    with live_server(ScriptedService()) as direct, gateway(direct) as through:
        direct_answer, answer = (httpx.post(f"{url}{PATH}", json=BODY | {"temprature": 1}) for url in (direct, through))
        assert (answer.status_code, answer.json()) == (400, direct_answer.json())
        assert answer.headers["x-request-id"] != direct_answer.headers["x-request-id"]
        assert httpx.post(f"{through}{PATH}", json={"messages": HI}).json()["error"]["param"] == "model"
        assert httpx.post(f"{through}{PATH}", content=b"[" * 10_000).status_code == 400


def test_weights_share_the_requests() -> None:
    services = [ScriptedService(), ScriptedService()]
    with ExitStack() as stack:
        urls = [stack.enter_context(live_server(service)) for service in services]
        url = stack.enter_context(gateway(f"{urls[0]}=3", urls[1]))
        for _ in range(12):
            assert httpx.post(f"{url}{PATH}", json=BODY).status_code == 200
        assert [len(service.requests) for service in services] == [9, 3]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("bad", [refuses(503), refuses(429), breaks_off_after(b"")], ids=["503", "429", "breaks off"])
def test_another_upstream_answers_where_one_fails_before_the_first_byte(bad: Any, stream: bool) -> None:
    service = ScriptedService()
    with raw_server(bad) as broken, live_server(service) as direct, gateway(f"{broken}=1000", direct) as url:
        for _ in range(2):
            answer = httpx.post(f"{url}{PATH}", json=BODY | {"stream": stream})
            assert answer.status_code == 200
            assert '"finish_reason":"stop"' in answer.text
        assert len(service.requests) == 2


def test_what_was_begun_is_not_begun_again() -> None:
    service = ScriptedService()
    event = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
    with (
        raw_server(breaks_off_after(event)) as broken,
        live_server(service) as direct,
        gateway(f"{broken}=1000", direct) as url,
    ):
        answer = httpx.post(f"{url}{PATH}", json=BODY | {"stream": True})
        first, last, rest = answer.text.split("\n\n")
        assert (first, rest) == (event.decode().strip(), "")
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_failed"
        assert service.requests == []


def test_without_another_one_the_last_failure_is_told() -> None:
    with raw_server(refuses(503)) as broken, gateway(broken) as url:
        assert httpx.post(f"{url}{PATH}", json=BODY).status_code == 503
    with raw_server(breaks_off_after(b"")) as broken, gateway(broken) as url:
        answer = httpx.post(f"{url}{PATH}", json=BODY)
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "no_upstream")


def test_one_that_is_down_is_not_asked_until_it_is_up() -> None:
    service = ScriptedService()
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    with gateway(f"http://127.0.0.1:{port}", upstream_check_s=0.05) as url:
        assert httpx.get(f"{url}/readyz").status_code == 503
        answer = httpx.post(f"{url}{PATH}", json=BODY)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_upstream")
        assert int(answer.headers["retry-after"]) > 0
        with live_server(service, port=port):
            assert eventually(lambda: httpx.get(f"{url}/readyz").status_code == 200)
            assert httpx.post(f"{url}{PATH}", json=BODY).status_code == 200
            assert httpx.get(f"{url}/healthz").json()["upstreams_up"] == 1
        assert eventually(lambda: httpx.get(f"{url}/readyz").status_code == 503)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_request_at_the_upstream(stream: bool) -> None:
    service = ScriptedService(tokens=["x"] * 1000, delay_s=0.02)
    with live_server(service) as direct, gateway(direct) as url:
        with httpx.Client(base_url=url, timeout=0.3) as client, pytest.raises(httpx.ReadTimeout):
            if not stream:
                client.post(PATH, json=BODY)
            with client.stream("POST", PATH, json=BODY | {"stream": True}) as answer:
                next(answer.iter_lines())
                raise httpx.ReadTimeout("went away")
        assert eventually(lambda: service.num_cancelled == 1)
        assert eventually(lambda: httpx.get(f"{url}/healthz").json()["running"] == 0)


def test_no_upstream_gets_more_than_its_share_and_the_queue_ends() -> None:
    service = ScriptedService(tokens=["x"] * 5, delay_s=0.05)
    most = 0

    async def ask(client: httpx.AsyncClient) -> int:
        nonlocal most
        response = await client.post(PATH, json=BODY)
        most = max(most, service.status().running)
        return response.status_code

    async def ask_all(url: str) -> list[int]:
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            return await asyncio.gather(*(ask(client) for _ in range(20)))

    with live_server(service) as direct, gateway(direct, upstream_running=2, max_waiting=6) as url:
        answers = asyncio.run(ask_all(url))
        assert sorted(answers) == [200] * 8 + [529] * 12
        assert most <= 2


def test_names_keys_and_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[bytes] = []

    def answer(head: bytes, connection: socket.socket) -> None:
        heads.append(head)
        body = b'{"model": "scripted", "usage": {"prompt_tokens": 7, "completion_tokens": 5}}'
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (len(body), body)
        )

    monkeypatch.setenv("THEIR_KEY", "sk-operator")
    settings: dict[str, Any] = {"upstream_models": ("m3=scripted",), "upstream_key_env": "THEIR_KEY"}
    with raw_server(answer) as theirs, gateway(theirs, **settings) as url:
        headers = {"authorization": "Bearer sk-client", "anthropic-version": "2023-06-01"}
        assert [model["id"] for model in httpx.get(f"{url}/v1/models").json()["data"]] == ["m3"]
        for path in (PATH, "/anthropic/v1/messages/count_tokens"):
            response = httpx.post(f"{url}{path}", json=BODY | {"model": "m3"}, headers=headers)
            assert (response.status_code, response.json()["model"]) == (200, "m3")
        assert [head.split(b" ")[1] for head in heads] == [b"/v1/chat/completions", b"/v1/messages/count_tokens"]
        assert all(b"Bearer sk-operator" in head and b"sk-client" not in head for head in heads)
        assert b"anthropic-version: 2023-06-01" in heads[1]
        metrics = httpx.get(f"{url}/metrics").text
        assert 'openm3:prompt_tokens_total{model_name="m3"} 14.0' in metrics
        assert 'openm3:generation_tokens_total{model_name="m3"} 10.0' in metrics


def test_usage_is_asked_for_and_hidden_from_who_has_not_asked() -> None:
    chunk = b'data: {"model":"theirs","choices":[{"delta":{"content":"a"}}]}\r\n\r\n'
    usage = b'data: {"model":"theirs","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\r\n\r\n'
    stream = chunk + chunk + usage + b"data: [DONE]\r\n\r\n"
    for hides in (True, False):
        for cut in range(1, len(stream), 7):
            told = Told("theirs", "own", hides_usage=hides)
            events = [*told.events(stream[:cut]), *told.events(stream[cut:])]
            assert b"".join(events) == stream.replace(usage, b"" if hides else usage).replace(b"theirs", b"own")
            assert (told.prompt_tokens, told.completion_tokens, told.rest()) == (3, 2, b"")
    told = Told("a", "a", hides_usage=True)
    assert list(told.events(chunk)) == [chunk]
    assert told.completion_tokens == 1  # at the least


@pytest.mark.parametrize(
    ("text", "url", "weight"),
    [
        ("http://a:1", "http://a:1/v1", 1.0),
        ("http://a:1/v1/=2.5", "http://a:1/v1", 2.5),
        ("https://a/openai/v1", "https://a/openai/v1", 1.0),
    ],
)
def test_addresses(text: str, url: str, weight: float) -> None:
    upstream = Upstream.parse(text)
    assert (upstream.url, upstream.weight) == (url, weight)


@pytest.mark.parametrize(
    "text", ["a:1", "ftp://a", "http://", "http://a=0", "http://a=x", "http://a=nan", "http://a?b"]
)
def test_wrong_addresses(text: str) -> None:
    with pytest.raises(InputError, match="--upstream"):
        Upstream.parse(text)


def test_wrong_names_and_keys() -> None:
    with pytest.raises(InputError, match="--upstream-model"):
        parse_names(["a"])
    with pytest.raises(InputError, match="NO_SUCH_KEY"), gateway("http://a", upstream_key_env="NO_SUCH_KEY"):
        pass
    with pytest.raises(InputError, match="upstream_check_s"):
        Settings(upstream_check_s=0)
