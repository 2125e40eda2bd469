"""Keys, limits and usage through the API, on real sockets."""

from __future__ import annotations

import re
import socket
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers.live_server import eventually, live_server
from helpers.scripted import ScriptedService
from openm3.engine.fairness import Share
from openm3.errors import InputError
from openm3.server.accounts.access import check_host
from openm3.server.accounts.database import Database, processes
from openm3.server.accounts.keys import KeyStore
from openm3.server.accounts.ledger import WINDOW, Ledger
from openm3.server.app import create_app
from openm3.server.settings import Settings

PLANS = """
[small]
tokens_per_day = 100
requests_per_minute = 5
concurrent_requests = 1
max_context = 90
answer_tokens = 2
weight = 1
models = ["scripted"]
[other]
tokens_per_day = "unlimited"
requests_per_minute = "unlimited"
concurrent_requests = "unlimited"
max_context = "unlimited"
answer_tokens = "unlimited"
weight = 1
models = ["nothing"]
"""
CHAT = {"model": "default", "messages": [{"role": "user", "content": "hi"}]}
PROMPT_TOKENS = len("<user>hi\n")


@pytest.fixture
def plans(tmp_path: Path) -> str:
    (tmp_path / "plans.toml").write_text(PLANS)
    return str(tmp_path / "plans.toml")


@pytest.fixture
def served(database: Database, database_url: str, plans: str) -> Generator[tuple[KeyStore, httpx.Client], None, None]:
    """A server, the keys that it goes by, and a client."""
    with (
        live_server(ScriptedService(), database=database_url, plans=plans) as url,
        httpx.Client(base_url=url) as client,
    ):
        yield KeyStore(database), client


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def chat(client: httpx.Client, key: str | None = None, **fields: Any) -> httpx.Response:
    return client.post("/v1/chat/completions", json=CHAT | fields, headers=bearer(key) if key else {})


@contextmanager
def lines_of_a_stream(client: httpx.Client, key: str) -> Generator[Iterator[str], None, None]:
    """What comes of an answer of 80 tokens, until it is left."""
    body = CHAT | {"stream": True, "max_tokens": 80}
    with client.stream("POST", "/v1/chat/completions", json=body, headers=bearer(key)) as stream:
        yield stream.iter_lines()


def test_a_server_is_open_until_the_first_key_and_never_again(served: tuple[KeyStore, httpx.Client]) -> None:
    store, client = served
    assert chat(client).status_code == 200
    assert chat(client, "whatever a client sends").status_code == 200
    wrong = chat(client, "om3_wrong")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "invalid_api_key")
    key, text = store.create(name="", plan="small")
    refused = chat(client)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert refused.headers["www-authenticate"] == "Bearer"
    assert chat(client, text).status_code == 200
    assert client.get("/v1/models", headers={"x-api-key": text}).status_code == 200
    assert client.get("/healthz").status_code == 200
    store.revoke(key.id)
    assert chat(client, text).status_code == 401
    assert chat(client).status_code == 401


def test_a_body_is_not_read_for_nobody(served: tuple[KeyStore, httpx.Client]) -> None:
    store, client = served
    store.create(name="", plan="small")
    host, port = client.base_url.host, client.base_url.port
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


def test_limits_go_with_every_answer_and_usage_is_what_was_used(served: tuple[KeyStore, httpx.Client]) -> None:
    store, client = served
    key, text = store.create(name="", plan="small")
    models = client.get("/v1/models", headers=bearer(text))
    assert models.headers["x-ratelimit-remaining-tokens"] == "100"
    whole = chat(client, text, max_tokens=4)
    assert whole.json()["usage"]["completion_tokens"] == 4
    used = PROMPT_TOKENS + 4
    assert whole.headers["x-ratelimit-limit-tokens"] == "100"
    assert whole.headers["x-ratelimit-remaining-tokens"] == str(100 - used)
    assert whole.headers["x-ratelimit-limit-requests"] == "5"
    assert whole.headers["x-ratelimit-remaining-requests"] == "4"
    assert re.fullmatch(r"(\d+h)?(\d+m)?\d+s", whole.headers["x-ratelimit-reset-tokens"])
    assert re.fullmatch(r"1m0s|[1-5]?\ds", whole.headers["x-ratelimit-reset-requests"])
    report = client.get("/v1/usage", headers=bearer(text)).json()
    assert (report["key"], report["plan"]) == (key.id, "small")
    assert report["tokens_per_day"] | {"resets_in_s": 0} == {
        "limit": 100, "used": used, "remaining": 100 - used, "resets_in_s": 0,
    }  # fmt: skip
    [record] = report["data"]
    assert record | {"day": ""} == {
        "day": "", "model": "scripted", "requests": 1, "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": 4, "total_tokens": used,
    }  # fmt: skip
    assert client.get("/v1/usage?until=2020-01-01", headers=bearer(text)).json()["data"] == []


def test_the_anthropic_api_says_the_limits_in_its_own_words(served: tuple[KeyStore, httpx.Client]) -> None:
    store, client = served
    _, text = store.create(name="", plan="small")
    message = client.post("/v1/messages", json=CHAT | {"max_tokens": 4}, headers={"x-api-key": text})
    for what, limit, left, most_s in (("tokens", 100, 100 - PROMPT_TOKENS - 4, 86_401), ("requests", 5, 4, 61)):
        name = f"anthropic-ratelimit-{what}"
        assert (message.headers[f"{name}-limit"], message.headers[f"{name}-remaining"]) == (str(limit), str(left))
        resets = datetime.fromisoformat(message.headers[f"{name}-reset"])
        assert 0 <= (resets - datetime.now(UTC)).total_seconds() <= most_s
    assert not any("anthropic" in name for name in chat(client, text).headers)


def test_models_are_those_of_the_plan(served: tuple[KeyStore, httpx.Client]) -> None:
    store, client = served
    for plan, names in (("small", ["scripted"]), ("other", [])):
        _, text = store.create(name="", plan=plan)
        listed = client.get("/v1/models", headers=bearer(text)).json()["data"]
        assert [model["id"] for model in listed] == names
        found = client.get("/v1/models/scripted", headers=bearer(text))
        assert found.status_code == (200 if names else 404)


def test_models_of_upstreams_are_those_of_the_plan(database: Database, database_url: str, plans: str) -> None:
    with (
        live_server(ScriptedService()) as upstream,
        live_server(None, upstreams=(upstream,), database=database_url, plans=plans) as url,
    ):
        for plan, names in (("small", ["scripted"]), ("other", [])):
            _, text = KeyStore(database).create(name="", plan=plan)
            listed = httpx.get(f"{url}/v1/models", headers=bearer(text)).json()["data"]
            assert [model["id"] for model in listed] == names
            assert httpx.get(f"{url}/v1/models/scripted", headers=bearer(text)).is_success == bool(names)


def test_a_refusal_says_what_was_used_the_limit_and_when_it_resets(served: tuple[KeyStore, httpx.Client]) -> None:
    store, client = served
    _, text = store.create(name="", plan="small")
    assert chat(client, text).json()["usage"]["completion_tokens"] == 2, "the plan's, where none is named"
    refused = chat(client, text, max_tokens=81)
    used = PROMPT_TOKENS + 2
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert error["code"] == "tokens_per_day_exceeded"
    assert f"{used} of the 100 a day of the plan 'small' are used; the day ends in" in error["message"]
    assert 0 < int(refused.headers["retry-after"]) <= 86_400
    assert refused.headers["x-ratelimit-remaining-tokens"] == str(100 - used)
    message = {"model": "default", "messages": CHAT["messages"], "max_tokens": 81}
    refused = client.post("/v1/messages", json=message, headers={"x-api-key": text})
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
    assert "retry-after" in refused.headers
    too_long = chat(client, text, max_tokens=82)
    assert (too_long.status_code, too_long.json()["error"]["code"]) == (400, "context_length_exceeded")
    for _ in range(4):
        assert chat(client, text, max_tokens=1).status_code == 200
    refused = chat(client, text, max_tokens=1, stream=True)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 0 < int(refused.headers["retry-after"]) <= 60


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_engine_is_told_whose_a_request_is(database: Database, database_url: str) -> None:
    key, text = KeyStore(database).create(name="", plan="max")
    service = ScriptedService()
    with live_server(service, database=database_url) as url, httpx.Client(base_url=url) as client:
        assert chat(client, text, n=2).status_code == 200
    assert service.shares == [Share(key.id, 4.0)] * 2


def test_what_the_plan_does_not_include(served: tuple[KeyStore, httpx.Client]) -> None:
    store, client = served
    _, text = store.create(name="", plan="other")
    refused = chat(client, text)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
    _, text = store.create(name="", plan="unheard of")
    refused = chat(client, text)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "unknown_plan")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_stream_that_is_left_pays_what_was_generated(database: Database, database_url: str, plans: str) -> None:
    _, text = KeyStore(database).create(name="", plan="small")
    service = ScriptedService(tokens=["x"] * 80, delay_s=0.02)
    with live_server(service, database=database_url, plans=plans) as url, httpx.Client(base_url=url) as client:
        with lines_of_a_stream(client, text) as lines:
            received = [next(lines) for _ in range(9)]
            assert chat(client, text, max_tokens=1).json()["error"]["code"] == "concurrency_limit_exceeded"
        num_received = sum('"content":"x"' in line for line in received)
        while not (data := client.get("/v1/usage", headers=bearer(text)).json()["data"]):
            pass
        assert num_received <= data[0]["completion_tokens"] < 40
        left = 100 - data[0]["total_tokens"]
        report = client.get("/v1/usage", headers=bearer(text)).json()
        assert report["tokens_per_day"]["remaining"] == left, "the rest was given back"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_server_that_was_taken_for_dead_stops_its_answers(database: Database, database_url: str, plans: str) -> None:
    _, text = KeyStore(database).create(name="", plan="small")
    service = ScriptedService(tokens=["x"] * 80, delay_s=0.02)
    with live_server(service, database=database_url, plans=plans) as url, httpx.Client(base_url=url) as client:
        with lines_of_a_stream(client, text) as lines:
            next(lines)
            with database.write() as connection:
                connection.execute(processes.update().values(lease_until=0.0))
            Ledger(database).sweep()
            rest = "\n".join(lines)
        assert '"code":"reservation_lost"' in rest and "[DONE]" not in rest
        [record] = client.get("/v1/usage", headers=bearer(text)).json()["data"]
        assert record["completion_tokens"] == WINDOW == rest.count('"content":"x"')
        assert eventually(lambda: service.num_cancelled == 1)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_without_its_database_a_server_lets_nobody_in(database: Database, database_url: str) -> None:
    _, text = KeyStore(database).create(name="", plan="plus")
    with live_server(ScriptedService(), database=database_url) as url, httpx.Client(base_url=url) as client:
        with database.write() as connection:
            connection.exec_driver_sql("ALTER TABLE keys RENAME TO gone")
        lost = chat(client, text)
        assert (lost.status_code, lost.json()["error"]["code"]) == (503, "database_unavailable")
        assert database_url not in lost.text and "keys" not in lost.json()["error"]["message"].replace("of keys", "")
        with database.write() as connection:
            connection.exec_driver_sql("ALTER TABLE gone RENAME TO keys")
        assert chat(client, text).status_code == 200


def test_every_endpoint_of_the_api_is_guarded(tmp_path: Path) -> None:
    public = {"/", "/healthz", "/readyz", "/metrics", "/openapi.json"}
    app = create_app(ScriptedService(), Settings(database=str(tmp_path / "a.db")))  # type: ignore[arg-type]
    paths = set(app.openapi()["paths"])
    assert "/v1/chat/completions" in paths
    assert {path for path in paths - public if not path.startswith(("/v1/", "/anthropic/", "/console/"))} == set()


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.org", False),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_other_machines_need_keys(database: Database, database_url: str, host: str, is_loopback: bool) -> None:
    settings = Settings(database=database_url)
    if is_loopback:
        check_host(host, settings)
    else:
        with pytest.raises(InputError, match="--host: .* lets other machines in, and there is no key yet"):
            check_host(host, settings)
    check_host(host, Settings(database=database_url, open=True))
    KeyStore(database).create(name="", plan="plus")
    check_host(host, settings)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_open_serves_everybody_beside_keys(database: Database, database_url: str) -> None:
    _, text = KeyStore(database).create(name="", plan="ultra")
    with live_server(ScriptedService(), database=database_url, open=True) as url, httpx.Client(base_url=url) as client:
        assert "x-ratelimit-limit-tokens" not in chat(client).headers
        assert client.get("/v1/usage").json()["key"] is None
        assert "x-ratelimit-limit-requests" in chat(client, text).headers
        assert chat(client, text[:-1]).status_code == 401


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_key_with_a_plan_that_is_not_there_stops_the_start(database: Database, database_url: str, plans: str) -> None:
    KeyStore(database).create(name="bob", plan="plus")
    with pytest.raises(InputError, match=r"plans: the key om3_\w+ \(bob\) has the plan 'plus', which is not there"):
        check_host("::1", Settings(database=database_url, plans=plans))
