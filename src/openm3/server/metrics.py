"""What Prometheus is told. Names are vLLM's, with `openm3` for `vllm`, where they mean the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from openm3.engine.output import Stats
    from openm3.engine.service import ReplicaStatus

_TO_FIRST_TOKEN_S = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
)
_BETWEEN_TOKENS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5)
_REQUEST_S = (0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920)


@dataclass(frozen=True)
class Load:
    """How busy the server is with one model; `cache_usage` is the share of the cache that requests hold, 0 to 1.

    `replicas` are its engines, where there are several.
    """

    running: int
    waiting: int
    cache_usage: float | None = None
    replicas: Sequence[ReplicaStatus] = ()


class Metrics:
    """The numbers of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._models: dict[str, ModelMetrics] = {}

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"openm3:{name}", about, labels, registry=self.registry)

        def histogram(name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"openm3:{name}", about, ["model_name"], registry=self.registry, buckets=buckets)

        self.responses = counter("http_responses", "Responses by route and status.", "method", "route", "status")
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts.", "model_name")
        self.generation_tokens = counter("generation_tokens", "Tokens generated.", "model_name")
        self.successes = counter("request_success", "Answers that ended.", "model_name", "finished_reason")
        self.refused = counter("request_refused", "Requests refused because too many waited.", "model_name")
        self.prefix_queries = counter("prefix_cache_queries", "Tokens looked up in the prefix cache.", "model_name")
        self.prefix_hits = counter("prefix_cache_hits", "Of these, tokens that it knew.", "model_name")
        self.preemptions = counter("num_preemptions", "Times that a request gave its pages up.", "model_name")
        self.drafted = counter("spec_decode_num_draft_tokens", "Tokens drafted ahead.", "model_name")
        self.accepted = counter("spec_decode_num_accepted_tokens", "Of these, tokens that were right.", "model_name")
        self.to_first_token = histogram(
            "time_to_first_token_seconds", "From the request to its first token.", _TO_FIRST_TOKEN_S
        )
        self.between_tokens = histogram(
            "inter_token_latency_seconds", "From a token to the next one.", _BETWEEN_TOKENS_S
        )
        self.request = histogram("e2e_request_latency_seconds", "From the request to its end.", _REQUEST_S)
        self.queue = histogram("request_queue_time_seconds", "Until the engine began with it.", _REQUEST_S)
        self.prefill = histogram("request_prefill_time_seconds", "From there to the first token.", _REQUEST_S)
        self.decode = histogram("request_decode_time_seconds", "From the first token to the last.", _REQUEST_S)

    def of(self, model: str) -> ModelMetrics:
        """The numbers of one model."""
        if model not in self._models:
            self._models[model] = ModelMetrics(self, model)
        return self._models[model]

    def watch(self, load: Callable[[], dict[str, Load]]) -> None:
        """Has `load` asked for the load of each model whenever the numbers are read."""
        self.registry.register(_LoadCollector(load))

    def text(self) -> bytes:
        """All numbers, in Prometheus' text format."""
        return generate_latest(self.registry)


class ModelMetrics:
    """The numbers of one model, which are counted token by token, so their labels are looked up once."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics, self._model = metrics, model
        self.prompt_tokens = metrics.prompt_tokens.labels(model)
        self.generation_tokens = metrics.generation_tokens.labels(model)
        self.to_first_token = metrics.to_first_token.labels(model)
        self.between_tokens = metrics.between_tokens.labels(model)
        self.request = metrics.request.labels(model)
        self.refused = metrics.refused.labels(model)

    def ended(self, reason: str, stats: Stats) -> None:
        """Counts an answer that ended, and what it has cost the engine."""
        metrics, model = self._metrics, self._model
        metrics.successes.labels(model, reason).inc()
        metrics.prefix_queries.labels(model).inc(stats.num_prompt)
        metrics.prefix_hits.labels(model).inc(stats.num_cached)
        metrics.preemptions.labels(model).inc(stats.num_preempted)
        metrics.drafted.labels(model).inc(stats.num_drafted)
        metrics.accepted.labels(model).inc(stats.num_accepted)
        metrics.queue.labels(model).observe(stats.queue_s)
        metrics.prefill.labels(model).observe(stats.read_s)
        metrics.decode.labels(model).observe(stats.decode_s)


class _LoadCollector(Collector):
    def __init__(self, load: Callable[[], dict[str, Load]]) -> None:
        self._load = load

    def collect(self) -> Iterator[Metric]:
        loads = self._load()
        yield from _of_models(loads)
        if any(load.replicas for load in loads.values()):
            yield from _of_replicas(loads)


def _of_models(loads: dict[str, Load]) -> Iterator[Metric]:
    running, waiting, cache = (
        GaugeMetricFamily(f"openm3:{name}", about, labels=["model_name"])
        for name, about in (
            ("num_requests_running", "Requests that are being computed."),
            ("num_requests_waiting", "Requests that wait."),
            ("kv_cache_usage_perc", "Share of the cache that requests hold, 0 to 1."),
        )
    )
    for model, load in loads.items():
        running.add_metric([model], load.running)
        waiting.add_metric([model], load.waiting)
        if load.cache_usage is not None:
            cache.add_metric([model], load.cache_usage)
    yield from (running, waiting, cache)


def _of_replicas(loads: dict[str, Load]) -> Iterator[Metric]:
    families = [
        (GaugeMetricFamily, "replica_up", "Whether it answers: 1 or 0.", "is_up"),
        (GaugeMetricFamily, "replica_requests_running", "Requests that it has now.", "running"),
        (CounterMetricFamily, "replica_requests", "Requests that it was given.", "num_served"),
        (CounterMetricFamily, "replica_prompt_tokens", "Tokens of their prompts.", "num_prompt"),
        (CounterMetricFamily, "replica_known_tokens", "Of these, tokens that it had been given before.", "num_known"),
        (CounterMetricFamily, "replica_failures", "Times that it was lost.", "num_failed"),
    ]
    for kind, name, about, field in families:
        family = kind(f"openm3:{name}", about, labels=["model_name", "replica"])
        for model, load in loads.items():
            for replica in load.replicas:
                family.add_metric([model, replica.name], getattr(replica, field))
        yield family
