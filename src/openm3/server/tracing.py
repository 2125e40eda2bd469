"""Tells a collector where the time of each request went, in spans of OpenTelemetry. Texts are never told."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import openm3
from openm3.errors import InputError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span, Tracer
    from opentelemetry.util.types import AttributeValue

    from openm3.engine.output import Stats
    from openm3.server.record import Record

_PHASES = ("gate", "queue", "prefill", "decode")
_NS = 1e9


class Tracing:
    """Makes a trace of each request, or goes on with the client's where it sends W3C's `traceparent`.

    Names and other attributes of the resource come from OpenTelemetry's own environment variables.

    Args:
        processor: takes the spans that have ended.
    """

    def __init__(self, processor: SpanProcessor) -> None:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider

        own = Resource({"service.name": "openm3", "service.version": openm3.__version__})
        self._provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("openm3.server", openm3.__version__)

    @classmethod
    def to(cls, endpoint: str) -> Tracing:
        """Sends spans to a collector that takes OTLP over HTTP, in a thread of its own.

        Raises:
            InputError: the extra isn't installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise InputError("--otlp-endpoint", "needs OpenTelemetry; pip install 'openm3[otel]'") from error
        return cls(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")))

    def begin(self, record: Record, headers: Mapping[str, str]) -> Trace:
        """The trace of a request whose head has come."""
        return Trace(self._tracer, record, headers)

    def close(self) -> None:
        """Sends what has not been sent."""
        self._provider.shutdown()


class Trace:
    """The spans of one request.

    Attributes:
        trace_id: as collectors show it.
    """

    def __init__(self, tracer: Tracer, record: Record, headers: Mapping[str, str]) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer, self._began_ns = tracer, time.time_ns()
        about = {
            "http.request.method": record.method,
            "url.path": record.path,
            "openm3.request_id": record.request_id,
        }
        self._span = tracer.start_span(
            record.method,
            TraceContextTextMapPropagator().extract(headers),
            trace.SpanKind.SERVER,
            about,
            start_time=self._began_ns,
        )
        self.context: Context = trace.set_span_in_context(self._span)
        self.trace_id = trace.format_trace_id(self._span.get_span_context().trace_id)

    def phases(self, model: str) -> Phases:
        """The phases of one answer to the request, which goes to the engine now."""
        return Phases(self._tracer, self.context, self._began_ns, model)

    @contextmanager
    def asking(self, upstream: str, headers: dict[str, str]) -> Iterator[None]:
        """While a server behind this one answers; `headers` get what makes it go on with the trace."""
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        span = self._tracer.start_span("upstream", self.context, trace.SpanKind.CLIENT, {"server.address": upstream})
        TraceContextTextMapPropagator().inject(headers, trace.set_span_in_context(span))
        try:
            yield
        except Exception as error:
            _fail(span, type(error).__name__)
            raise
        finally:
            span.end()

    def end(self, record: Record, route: str, status: int) -> None:
        """The response has been sent."""
        span = self._span
        span.update_name(f"{record.method} {route}")
        known: dict[str, AttributeValue | None] = {
            "http.route": route,
            "http.response.status_code": status,
            "openm3.key_id": record.key_id,
            "gen_ai.request.model": record.model,
            "gen_ai.usage.input_tokens": record.prompt_tokens,
            "gen_ai.usage.output_tokens": record.completion_tokens,
            "gen_ai.response.finish_reasons": record.finish_reasons or None,
        }
        span.set_attributes({name: value for name, value in known.items() if value is not None})
        if status >= 500:
            _fail(span, "")
        span.end()


class Phases:
    """One answer's way: what came before the engine, then waiting, reading the prompt, and generating."""

    def __init__(self, tracer: Tracer, context: Context, began_ns: int, model: str) -> None:
        self._tracer, self._context, self._model = tracer, context, model
        self._marks = [began_ns, time.time_ns()]

    def next(self) -> None:
        """The phase that it is in has ended."""
        self._marks.append(time.time_ns())

    def end(self, stats: Stats | None, error: str = "") -> None:
        """It has ended; without `stats` before its time, in the phase that it was in."""
        marks, now = self._marks, time.time_ns()
        if stats is not None:  # the engine knows better when it began than the one who saw its first event
            decode = now - int(stats.decode_s * _NS)
            prefill = decode - int(stats.read_s * _NS)
            queue = prefill - int(stats.queue_s * _NS)
            marks = [marks[0], max(queue, marks[0]), max(prefill, marks[0]), max(decode, marks[0])]
        for name, begin, end in zip(_PHASES, marks, [*marks[1:], now], strict=False):
            span = self._tracer.start_span(
                name, self._context, attributes={"gen_ai.request.model": self._model}, start_time=begin
            )
            if error and end == now:
                _fail(span, error)
            span.end(end)


def _fail(span: Span, reason: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_status(Status(StatusCode.ERROR, reason or None))
