"""Prometheus metrics.

Labels have few values: served versions, signatures, declared routes; never a value that a client chose.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, Info
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.errors import GatewayError
from service.memory import MemoryBudget
from service.scheduling.call import Call
from service.scheduling.prefix_cache import PrefixCache
from service.scheduling.sequence import ModelVersion, Sequence

# Numbers of running and of waiting sequences of each model version.
Loads = Mapping[ModelVersion, tuple[int, int]]

_MODEL = ("model", "version")
_CALL = (*_MODEL, "signature")
_HTTP = ("method", "route", "status")
# Any other method is labeled "other": a client may send arbitrary ones.
HTTP_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# From a first token on an idle server, some 15 ms, to a sequence that waits through an outage; about three buckets per
# decade.
_LATENCIES_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
# Calls are sized to last some 30 ms at 512 units, hence the fine buckets there; a call times out after 30 s.
_CALLS_S = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2, 0.5, 1, 5, 30)
# Batches are padded to 4 or to multiples of 8 up to 64, so each bucket is one padded size; 1 and 2 resolve low load.
_BATCH_SIZES = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64)
# A single sequence has 0.2 ms per token, one in a batch of 64 has 1 ms; readers notice 50 ms and more.
_GAPS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1)


class _TokenHistogram(Histogram):
    """A histogram in which one observation counts for many tokens."""

    def observe_tokens(self, seconds: float, count: int) -> None:
        """Observe `count` tokens that took `seconds` together."""
        self._sum.inc(seconds)
        self._buckets[bisect_left(self._upper_bounds, seconds / count)].inc(count)


class _Families:
    """Metric families with the same labels, model and version first; all series of a label set are created at once."""

    def __init__(self, **families: Counter | Histogram) -> None:
        self._families = families
        self._series: dict[tuple[ModelVersion, *tuple[str, ...]], SimpleNamespace] = {}

    def of(self, model: ModelVersion, *others: str) -> Any:
        series = self._series.get((model, *others))
        if series is None:
            labels = (model.name, str(model.number), *others)
            series = SimpleNamespace(**{name: family.labels(*labels) for name, family in self._families.items()})
            self._series[model, *others] = series
        return series

    def models(self) -> list[ModelVersion]:
        return [model for model, *_ in list(self._series)]

    def forget(self, model: ModelVersion) -> None:
        for key in [key for key in list(self._series) if key[0] == model]:
            self._series.pop(key, None)
        for family in self._families.values():
            _remove(family, model)


class Metrics(Collector):
    """Every metric of the gateway; each method takes a few microseconds and is thread-safe."""

    def __init__(self, version: str) -> None:
        """Declare the metrics; `version` is the project's."""
        # Otherwise every histogram and counter has an unused series with its creation time.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()  # a scrape reads it
        self._sequences, self._calls = self._sequence_families(), self._call_families()
        self._finished = self._counter("sequences_finished", "Finished sequences, by finish reason.", *_MODEL, "reason")
        self._failures = self._counter("call_failures", "Failed calls, by error code.", *_CALL, "code")
        self._requests = self._counter("http_requests", "Finished HTTP requests.", *_HTTP)
        help_text = "Time from when a worker thread starts on a request to the last byte of its response."
        self._duration = self._histogram("http_request_duration_seconds", help_text, _HTTP)
        help_text = "Time to compile the patterns of a request that were not cached, by outcome."
        self._compilations = self._histogram("pattern_compile_seconds", help_text, ("outcome",))
        self._errors = self._counter("errors", "Errors sent to clients, by code.", "code")
        self._collect_state: Callable[[], Iterable[Metric]] = tuple
        Info("sostenuto_build", "Version of the gateway.", registry=registry).info({"version": version})
        prometheus_client.ProcessCollector(registry=registry)
        prometheus_client.PlatformCollector(registry=registry)

    def _sequence_families(self) -> _Families:
        return _Families(
            queue_wait=self._histogram("queue_wait_seconds", "Time from admission to a slot, per prompt.", _MODEL),
            first_token=self._histogram(
                "time_to_first_token_seconds", "Time from the start of a request to its first token.", _MODEL
            ),
            token_gap=_TokenHistogram(
                "sostenuto_inter_token_latency_seconds",
                "Time per token after the first, weighted by tokens: the mean is the inverse of a sequence's speed.",
                _MODEL,
                registry=self.registry,
                buckets=_GAPS_S,
            ),
            cancelled=self._counter(
                "sequences_cancelled", "Sequences cancelled by a disconnect or a deadline.", *_MODEL
            ),
            # Both count tokens: their ratio is the share of prefill that was saved.
            prefix_queries=self._counter("prefix_cache_queried_tokens", "Prompt tokens of started sequences.", *_MODEL),
            prefix_hits=self._counter("prefix_cache_hit_tokens", "Prompt tokens that were prefix cache hits.", *_MODEL),
            prompt_tokens=self._counter("prompt_tokens", "Prompt tokens of ended requests.", *_MODEL),
            completion_tokens=self._counter("completion_tokens", "Completion tokens of ended requests.", *_MODEL),
        )

    def _call_families(self) -> _Families:
        return _Families(
            duration=self._histogram(
                "call_duration_seconds", "Time from sending a call to its response.", _CALL, _CALLS_S
            ),
            sequences=self._histogram("call_sequences", "Sequences of a call, without padding.", _CALL, _BATCH_SIZES),
            padding=self._counter("call_padding_sequences", "Padding slots of calls, without a sequence.", *_CALL),
            retries=self._counter("call_retries", "Failed calls that are retried.", *_CALL),
        )

    def sequence_started(self, sequence: Sequence, waited_s: float) -> None:
        series = self._sequences.of(sequence.version)
        series.queue_wait.observe(waited_s)
        series.prefix_queries.inc(sequence.num_cached_tokens + sequence.num_remaining_prompt_tokens)
        series.prefix_hits.inc(sequence.num_cached_tokens)

    def call_completed(self, call: Call, seconds: float) -> None:
        series, num_used = self._calls.of(call.version, call.signature), len(call.sequences)
        series.duration.observe(seconds)
        series.sequences.observe(num_used)
        series.padding.inc(call.batch_size - num_used)

    def call_failed(self, call: Call, error: GatewayError, again: bool) -> None:
        model = call.version
        self._failures.labels(model.name, model.number, call.signature, error.code or error.type).inc()
        if again:
            self._calls.of(model, call.signature).retries.inc()

    def cancelled(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            self._sequences.of(sequence.version).cancelled.inc()

    def first_token(self, model: ModelVersion, seconds: float) -> None:
        self._sequences.of(model).first_token.observe(seconds)

    def token_gap(self, model: ModelVersion, seconds: float, count: int) -> None:
        """Observe `count` tokens, at least one, of a choice that arrived together, `seconds` after the previous ones.

        Each token counts with an equal share of the time, so chunks are weighted by their tokens.
        """
        self._sequences.of(model).token_gap.observe_tokens(seconds, count)

    def finished(
        self, model: ModelVersion, *, num_prompt_tokens: int, num_completion_tokens: int, reasons: Iterable[str]
    ) -> None:
        """Count the tokens of an ended request, and its finished choices by their finish `reasons`."""
        series = self._sequences.of(model)
        series.prompt_tokens.inc(num_prompt_tokens)
        series.completion_tokens.inc(num_completion_tokens)
        for reason in reasons:
            self._finished.labels(model.name, model.number, reason).inc()

    def responded(self, *, method: str, route: str | None, status: int, error_code: str | None, seconds: float) -> None:
        """Count a request whose response was sent to the last byte, `seconds` after its head.

        `route` is the URL rule that matched, never the path; `error_code` is the code or type of an error, even within
        a stream.
        """
        key = (method if method in HTTP_METHODS else "other", route or "other", status)
        self._requests.labels(*key).inc()
        self._duration.labels(*key).observe(seconds)
        if error_code is not None:
            self._errors.labels(error_code).inc()

    def watch(
        self,
        *,
        loads: Callable[[], Loads],
        num_tokens: Callable[[], int],
        prefix_cache: PrefixCache,
        memory: MemoryBudget,
        backends: Callable[[], Iterable[tuple[str, bool, float]]],
        rejections: Callable[[], Mapping[str, int]],
    ) -> None:
        """Report the state of scheduler, memory and backends at each scrape.

        `backends` returns for each its address, whether it gets calls, and the seconds of its config drift;
        `rejections` how many calls backends rejected, by reason.
        """

        def collect() -> Iterator[Metric]:
            yield from self._load_gauges(loads())
            help_text = "Prompt tokens and max_tokens of running and waiting sequences, counted until a sequence ends."
            yield _gauge("queued_tokens", help_text, num_tokens())
            help_text = "Memory used by the states in the prefix cache."
            yield _gauge("prefix_cache_bytes", help_text, prefix_cache.num_bytes)
            yield _gauge("prefix_cache_states", "States in the prefix cache.", len(prefix_cache))
            name, help_text = "sostenuto_prefix_cache_evicted_states", "States evicted from the prefix cache."
            yield CounterMetricFamily(name, help_text, value=prefix_cache.num_evicted)
            help_text = "Memory used by bodies, prompts and responses of requests in flight."
            yield _gauge("request_memory_bytes", help_text, memory.num_bytes)
            help_text = "Limit of sostenuto_request_memory_bytes; requests beyond it get 429."
            yield _gauge("request_memory_limit_bytes", help_text, memory.max_bytes)
            states = list(backends())
            num_serving = sum(is_serving for _, is_serving, _ in states)
            counts = {"serving": num_serving, "ejected": len(states) - num_serving}
            yield _by_label(GaugeMetricFamily, "backends", "Backends, by whether they get calls.", "state", counts)
            help_text = "Calls that a backend rejected without computing them; they are retried."
            yield _by_label(CounterMetricFamily, "call_rejections", help_text, "reason", rejections())
            help_text = (
                "Time for which a backend has served other versions than models.config lists; 0: it serves those."
            )
            drifts = {address: seconds for address, _, seconds in states}
            yield _by_label(GaugeMetricFamily, "backend_config_drift_seconds", help_text, "backend", drifts)

        self._collect_state = collect
        self.registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Return the state that is read at each scrape, of which labels come and go."""
        return self._collect_state()

    def _load_gauges(self, loads: Loads) -> list[Metric]:
        running = GaugeMetricFamily("sostenuto_sequences_running", "Sequences that hold a slot.", labels=_MODEL)
        waiting = GaugeMetricFamily("sostenuto_sequences_waiting", "Sequences that wait for a slot.", labels=_MODEL)
        # Zeros for idle versions: otherwise they would look lost.
        counts = {**dict.fromkeys(self._sequences.models(), (0, 0)), **loads}
        for model, (num_running, num_waiting) in counts.items():
            labels = (model.name, str(model.number))
            running.add_metric(labels, num_running)
            waiting.add_metric(labels, num_waiting)
        return [running, waiting]

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"sostenuto_{name}", help_text, labels, registry=self.registry)

    def _histogram(
        self, name: str, help_text: str, labels: tuple[str, ...], buckets: tuple[float, ...] = _LATENCIES_S
    ) -> Histogram:
        return Histogram(f"sostenuto_{name}", help_text, labels, registry=self.registry, buckets=buckets)

    def compiled(self, seconds: float, *, is_refused: bool) -> None:
        """Record the compilation of a constraint, or its refusal."""
        self._compilations.labels("refused" if is_refused else "compiled").observe(seconds)

    def keep(self, models: Iterable[ModelVersion]) -> None:
        """Remove the series of all other versions; called regularly, it also removes those of late observations."""
        for model in {*self._sequences.models(), *self._calls.models()}.difference(models):
            self._sequences.forget(model)
            self._calls.forget(model)
            _remove(self._finished, model)
            _remove(self._failures, model)


def _remove(family: Counter | Histogram, model: ModelVersion) -> None:
    family.remove_by_labels({"model": model.name, "version": str(model.number)})


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"sostenuto_{name}", help_text, value=value)


def _by_label(
    kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
    name: str,
    help_text: str,
    label: str,
    values: Mapping[str, float],
) -> Metric:
    family = kind(f"sostenuto_{name}", help_text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
