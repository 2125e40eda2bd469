"""What operators see: health, readiness, metrics, logs."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from helpers.live_server import eventually, live_server
from helpers.scripted import ScriptedService
from openm3.server import logs
from openm3.server.app import create_app
from openm3.server.logs import JsonFormatter, TextFormatter

SECRET = "the secret of the question"
BODY: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": SECRET}]}
PATH = "/v1/chat/completions"


def _metrics(url: str) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the values of its labels, in the order of their names."""
    response = httpx.get(f"{url}/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name.removeprefix("openm3:"), *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_metrics_count_requests_and_tokens() -> None:
    with live_server(ScriptedService(tokens=["a", "b", "c"])) as url:
        before = _metrics(url)
        assert ("prompt_tokens_total", "scripted") in before  # so that a rate is known from the first request on
        for stream in (False, True):
            assert httpx.post(f"{url}{PATH}", json=BODY | {"stream": stream}).status_code == 200
        httpx.post(f"{url}{PATH}", json={"model": "default"})
        httpx.request("BREW", f"{url}/no/such/path")
        now = _metrics(url)
    num_prompt = len(f"<user>{SECRET}\n")
    assert now["prompt_tokens_total", "scripted"] == 2 * num_prompt
    assert now["generation_tokens_total", "scripted"] == 6
    assert now["time_to_first_token_seconds_count", "scripted"] == 2
    assert now["inter_token_latency_seconds_count", "scripted"] == 4
    assert now["e2e_request_latency_seconds_count", "scripted"] == 2
    assert now["request_success_total", "stop", "scripted"] == 2
    assert now["num_requests_running", "scripted"] == now["num_requests_waiting", "scripted"] == 0
    assert now["kv_cache_usage_perc", "scripted"] == 0
    assert now["http_responses_total", "POST", PATH, "200"] == 2
    assert now["http_responses_total", "POST", PATH, "400"] == 1
    assert now["http_responses_total", "other", "other", "404"] == 1


def test_metrics_of_two_servers_are_apart() -> None:
    with live_server(ScriptedService()) as first, live_server(ScriptedService()) as second:
        httpx.post(f"{first}{PATH}", json=BODY)
        assert _metrics(first)["generation_tokens_total", "scripted"] == 4
        assert _metrics(second)["generation_tokens_total", "scripted"] == 0


def test_running_requests_are_seen() -> None:
    service = ScriptedService(tokens=["x"] * 50, delay_s=0.02)
    with live_server(service) as url:
        thread = threading.Thread(target=httpx.post, args=(f"{url}{PATH}",), kwargs={"json": BODY})
        thread.start()
        assert eventually(lambda: _metrics(url)["num_requests_running", "scripted"] == 1)
        assert httpx.get(f"{url}/healthz").json()["running"] == 1
        thread.join()


def test_a_server_that_stops_is_not_ready() -> None:
    app = create_app(ScriptedService())

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            return await client.get("/readyz")

    assert asyncio.run(ask()).json() == {"status": "ready"}
    app.state.front.is_closing = True
    stopping = asyncio.run(ask())
    assert (stopping.status_code, stopping.json()["error"]["code"]) == (503, "not_ready")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[dict[str, Any]]]:
    """The lines of the log, each read from its JSON."""
    found: list[dict[str, Any]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(json.loads(self.format(record)))

    logger, handler = logging.getLogger("openm3"), Handler()
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    with caplog.at_level(logging.INFO, "openm3"):
        yield found
    logger.removeHandler(handler)


def test_each_request_has_a_line_without_what_it_asked(lines: list[dict[str, Any]]) -> None:
    with live_server(ScriptedService(tokens=["a", "b"])) as url:
        response = httpx.post(f"{url}{PATH}?q={SECRET}", json=BODY | {"stream": True})
        refused = httpx.post(f"{url}{PATH}", content=b'{"model": "\xff')
        assert eventually(lambda: len(lines) == 2)
    first, second = lines
    assert first["request_id"] == response.headers["x-request-id"]
    assert (first["level"], first["message"], first["method"], first["path"]) == ("info", "request", "POST", PATH)
    assert (first["status"], first["completion_tokens"], first["finish_reasons"]) == (200, 2, ["stop"])
    assert first["prompt_tokens"] == len(f"<user>{SECRET}\n")
    assert 0 < first["first_token_s"] < first["duration_s"]
    assert (second["request_id"], second["status"]) == (refused.headers["x-request-id"], 400)
    assert SECRET not in json.dumps(lines)


def test_what_was_asked_is_logged_where_that_is_wanted(lines: list[dict[str, Any]]) -> None:
    with live_server(ScriptedService(), log_prompts=True) as url:
        httpx.post(f"{url}{PATH}", json=BODY)
        assert eventually(lambda: len(lines) == 1)
    assert json.loads(lines[0]["prompt"]) == BODY


def test_a_failure_is_logged_with_the_id_that_the_client_was_told(lines: list[dict[str, Any]]) -> None:
    with live_server(ScriptedService(fails_after=0)) as url:
        response = httpx.post(f"{url}{PATH}", json=BODY)
        assert eventually(lambda: len(lines) == 2)
    assert response.status_code == 500
    request = next(line for line in lines if line["message"] == "request")
    error = next(line for line in lines if line["message"] != "request")
    assert request["status"] == 500
    assert request["request_id"] == error["request_id"] == response.headers["x-request-id"]
    assert "a secret of the engine" in error["exception"]


def test_a_line_for_people_stays_one_line() -> None:
    record = logging.LogRecord(logs.REQUESTS, logging.INFO, "", 0, "request", (), None)
    record.fields = {"path": "/a\nb", "status": 200}
    assert TextFormatter().format(record).endswith('info request path="/a\\nb" status=200')


def test_pages_of_other_origins_are_let_in_only_where_told() -> None:
    headers = {"origin": "https://a.example", "access-control-request-method": "POST"}
    with live_server(ScriptedService()) as url:
        assert "access-control-allow-origin" not in httpx.options(f"{url}{PATH}", headers=headers).headers
    with live_server(ScriptedService(), cors_origins=("https://a.example",)) as url:
        allowed = httpx.options(f"{url}{PATH}", headers=headers | {"access-control-request-headers": "authorization"})
        assert allowed.headers["access-control-allow-origin"] == "https://a.example"
        assert "authorization" in allowed.headers["access-control-allow-headers"]
        wrong = httpx.post(f"{url}{PATH}", json={}, headers={"origin": "https://a.example"})
        assert (wrong.status_code, wrong.headers["access-control-allow-origin"]) == (400, "https://a.example")
        other = httpx.options(f"{url}{PATH}", headers=headers | {"origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
