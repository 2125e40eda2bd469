"""Traces of real requests, in memory and at a collector on a socket."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from helpers.live_server import eventually, live_server
from helpers.scripted import ScriptedService
from openm3.server.tracing import Tracing

CHAT = {"model": "default", "messages": [{"role": "user", "content": "a secret"}]}
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def server(spans: InMemorySpanExporter) -> Generator[str, None, None]:
    tracing = Tracing(SimpleSpanProcessor(spans))
    with live_server(ScriptedService(delay_s=0.01), tracing=tracing, request_s=0.5) as url:
        yield url


def finished(spans: InMemorySpanExporter, number: int) -> Sequence[ReadableSpan]:
    assert eventually(lambda: len(spans.get_finished_spans()) >= number), spans.get_finished_spans()
    found = spans.get_finished_spans()
    assert len(found) == number, [span.name for span in found]
    return sorted(found, key=lambda span: (span.start_time or 0, -(span.end_time or 0)))


def test_a_request_is_a_span_of_the_clients_trace_and_its_phases_follow_each_other(
    server: str, spans: InMemorySpanExporter
) -> None:
    answer = httpx.post(f"{server}/v1/chat/completions", json=CHAT, headers=PARENT)
    whole, *phases = finished(spans, 5)
    assert (whole.name, whole.kind) == ("POST /v1/chat/completions", SpanKind.SERVER)
    assert whole.parent and whole.context
    assert (f"{whole.context.trace_id:032x}", f"{whole.parent.span_id:016x}") == (TRACE, "b7ad6b7169203331")
    assert dict(whole.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "url.path": "/v1/chat/completions",
        "openm3.request_id": answer.headers["x-request-id"],
        "gen_ai.request.model": "scripted",
        "gen_ai.usage.input_tokens": answer.json()["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.response.finish_reasons": ("stop",),
    }
    assert [span.name for span in phases] == ["gate", "queue", "prefill", "decode"]
    for before, span in itertools.pairwise(phases):
        assert before.end_time == span.start_time
    assert phases[0].start_time == whole.start_time and (phases[-1].end_time or 0) <= (whole.end_time or 0)
    assert all(span.parent and span.parent.span_id == whole.context.span_id for span in phases)
    assert "secret" not in "".join(span.to_json() for span in spans.get_finished_spans())


@pytest.mark.parametrize("parent", [{}, {"traceparent": "00-nonsense"}, {"traceparent": "\x00" * 3000}])
def test_a_request_without_a_trace_begins_one(server: str, spans: InMemorySpanExporter, parent: dict[str, str]) -> None:
    headers = [(name.encode(), value.replace("\x00", "-").encode()) for name, value in parent.items()]
    assert httpx.get(f"{server}/healthz", headers=headers).status_code == 200
    [span] = finished(spans, 1)
    assert (span.name, span.parent) == ("GET /healthz", None)


def test_what_fails_says_in_which_phase(spans: InMemorySpanExporter) -> None:
    service = ScriptedService(delay_s=0.4)
    with live_server(service, tracing=Tracing(SimpleSpanProcessor(spans)), request_s=0.6) as url:
        assert httpx.post(f"{url}/v1/chat/completions", json=CHAT).status_code == 504
    whole, *phases = finished(spans, 5)
    assert [span.name for span in phases] == ["gate", "queue", "prefill", "decode"]
    assert [span.status.status_code for span in phases] == [StatusCode.UNSET] * 3 + [StatusCode.ERROR]
    assert phases[-1].status.description == "ApiError" and whole.status.status_code is StatusCode.ERROR


def test_a_client_that_leaves_is_told_too(spans: InMemorySpanExporter) -> None:
    with live_server(ScriptedService(delay_s=0.2), tracing=Tracing(SimpleSpanProcessor(spans))) as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/chat/completions", json=CHAT, timeout=0.1)
        whole, *phases = finished(spans, 4)
    assert [span.name for span in phases] == ["gate", "queue", "prefill"]
    assert phases[-1].status.status_code is StatusCode.ERROR
    assert whole.attributes and whole.attributes["http.response.status_code"] == 499


def test_an_upstream_goes_on_with_the_trace(spans: InMemorySpanExporter) -> None:
    behind = InMemorySpanExporter()
    with (
        live_server(ScriptedService(), tracing=Tracing(SimpleSpanProcessor(behind))) as upstream,
        live_server(None, upstreams=(upstream,), tracing=Tracing(SimpleSpanProcessor(spans))) as url,
    ):
        assert httpx.post(f"{url}/v1/chat/completions", json=CHAT, headers=PARENT).status_code == 200
        whole, asking = finished(spans, 2)
        checked, theirs, *_ = finished(behind, 6)
    assert checked.name == "GET /v1/models"
    assert (whole.name, asking.name, asking.kind) == ("POST /v1/chat/completions", "upstream", SpanKind.CLIENT)
    assert asking.parent and whole.context and asking.parent.span_id == whole.context.span_id
    assert theirs.parent and asking.context and theirs.parent.span_id == asking.context.span_id
    assert f"{theirs.parent.trace_id:032x}" == TRACE


def test_spans_reach_a_collector() -> None:
    received: list[ExportTraceServiceRequest] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            data = self.rfile.read(int(self.headers["content-length"]))
            received.append(ExportTraceServiceRequest.FromString(data))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        with live_server(ScriptedService(), otlp_endpoint=f"http://127.0.0.1:{collector.server_port}") as url:
            httpx.post(f"{url}/v1/chat/completions", json=CHAT)
        collector.shutdown()
        thread.join()
    [resource] = [each for request in received for each in request.resource_spans]
    attributes = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert attributes["service.name"] == "openm3"
    names = {span.name for scope in resource.scope_spans for span in scope.spans}
    assert names == {"POST /v1/chat/completions", "gate", "queue", "prefill", "decode"}


def test_without_the_option_or_the_extra_nothing_is_traced() -> None:
    script = """
import json, sys
sys.modules["opentelemetry.sdk"] = sys.modules["opentelemetry.exporter"] = None  # as where the extra isn't installed
from helpers.scripted import ScriptedService
from openm3.errors import InputError
from openm3.server.app import create_app
from openm3.server.settings import Settings
create_app(ScriptedService())
try:
    create_app(ScriptedService(), Settings(otlp_endpoint="http://127.0.0.1:4318"))
except InputError as error:
    print(json.dumps(str(error)))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd="tests", capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == "--otlp-endpoint: needs OpenTelemetry; pip install 'openm3[otel]'"
