"""Prometheus metrics.

Knows calls, sequences and the measurements of a request. Does not know Flask, the principal, or where the metrics are
scraped. Labels have few values: served versions, signatures, declared routes; never a value that a client chose.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.errors import GatewayError
from service.memory import MemoryBudget
from service.params import ModelVersion
from service.scheduling.call import Call
from service.scheduling.prefix_cache import PrefixCache
from service.scheduling.sequence import Sequence

# Returns for each model version the numbers of running and of waiting sequences.
Loads = Callable[[], Iterable[tuple[ModelVersion, int, int]]]

_MODEL = ("model", "version")
_CALL = (*_MODEL, "signature")
_HTTP = ("method", "route", "status")
# Labels have no others: a client may send any.
HTTP_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# From a first token on an idle server, some 15 ms, to a sequence that waits through an outage; about three buckets per
# decade.
_LATENCIES_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
# Calls are sized to last some 30 ms at 512 units, hence the fine buckets there; a call times out after 30 s.
_CALLS_S = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2, 0.5, 1, 5, 30)
# Batches are padded to multiples of 8 up to 64, so each bucket is one padded size; the small ones resolve low load.
_BATCH_SIZES = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64)
# A single sequence has 0.2 ms per token, one in a batch of 64 has 1 ms; readers notice 50 ms and more.
_GAPS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1)


class _TokenHistogram(Histogram):
    """A histogram in which one observation counts for many tokens."""

    def observe_tokens(self, seconds: float, count: int) -> None:
        """Observe `count` tokens that took `seconds` together."""
        self._sum.inc(seconds)
        self._buckets[bisect_left(self._upper_bounds, seconds / count)].inc(count)


class _SequenceFamilies(dict[ModelVersion, "_SequenceSeries"]):
    """The series of each model version's sequences; a missing one is created."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()

        def histogram(name: str, help_text: str) -> Histogram:
            return Histogram(f"ostinato_{name}", help_text, _MODEL, registry=registry, buckets=_LATENCIES_S)

        def counter(name: str, help_text: str, *labels: str) -> Counter:
            return Counter(f"ostinato_{name}", help_text, (*_MODEL, *labels), registry=registry)

        self.queue_wait = histogram("queue_wait_seconds", "Time from acceptance to a slot, of each prompt.")
        self.first_token = histogram(
            "time_to_first_token_seconds", "Time from the start of a request to its first token."
        )
        self.token_gap = _TokenHistogram(
            "ostinato_inter_token_latency_seconds",
            "Time per token after the first, weighted by tokens: the inverse of the mean is the speed of a sequence.",
            _MODEL,
            registry=registry,
            buckets=_GAPS_S,
        )
        self.cancelled = counter("sequences_cancelled", "Sequences cancelled by a disconnect or a deadline.")
        self.finished = counter("sequences_finished", "Finished sequences, by finish reason.", "reason")
        # Both count tokens, as is usual: their ratio is the share of prefill that was saved.
        self.prefix_queries = counter("prefix_cache_queried_tokens", "Prompt tokens of started sequences.")
        self.prefix_hits = counter("prefix_cache_hit_tokens", "Of those, tokens with a cached state.")
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens of ended requests.")
        self.completion_tokens = counter("completion_tokens", "Completion tokens of ended requests.")

    def __missing__(self, model: ModelVersion) -> "_SequenceSeries":
        series = self[model] = _SequenceSeries(self, model)
        return series

    def forget(self, model: ModelVersion) -> None:
        """Remove a version's series."""
        self.pop(model, None)
        _remove(vars(self).values(), model)


class _SequenceSeries:
    def __init__(self, families: _SequenceFamilies, model: ModelVersion) -> None:
        labels = (model.name, str(model.version))
        self.queue_wait = families.queue_wait.labels(*labels)
        self.first_token = families.first_token.labels(*labels)
        self.token_gap = families.token_gap.labels(*labels)
        self.cancelled = families.cancelled.labels(*labels)
        self.prefix_queries = families.prefix_queries.labels(*labels)
        self.prefix_hits = families.prefix_hits.labels(*labels)
        self.prompt_tokens = families.prompt_tokens.labels(*labels)
        self.completion_tokens = families.completion_tokens.labels(*labels)


class _CallFamilies(dict[tuple[ModelVersion, str], "_CallSeries"]):
    """The series of each model version's calls, by signature; a missing one is created."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()

        def histogram(name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"ostinato_call_{name}", help_text, _CALL, registry=registry, buckets=buckets)

        def counter(name: str, help_text: str, *labels: str) -> Counter:
            return Counter(f"ostinato_call_{name}", help_text, (*_CALL, *labels), registry=registry)

        self.duration = histogram("duration_seconds", "Time from sending a call to its response.", _CALLS_S)
        self.sequences = histogram("sequences", "Sequences of a call, without padding.", _BATCH_SIZES)
        self.padding_sequences = counter("padding_sequences", "Slots of calls that held no sequence.")
        self.failures = counter("failures", "Failed calls, by error code.", "code")
        self.retries = counter("retries", "Failed calls that are retried.")

    def __missing__(self, key: tuple[ModelVersion, str]) -> "_CallSeries":
        series = self[key] = _CallSeries(self, *key)
        return series

    def forget(self, model: ModelVersion) -> None:
        """Remove a version's series."""
        for key in [key for key in list(self) if key[0] == model]:
            self.pop(key, None)
        _remove(vars(self).values(), model)


class _CallSeries:
    def __init__(self, calls: _CallFamilies, model: ModelVersion, signature: str) -> None:
        labels = (model.name, str(model.version), signature)
        self.duration = calls.duration.labels(*labels)
        self.sequences = calls.sequences.labels(*labels)
        self.padding_sequences = calls.padding_sequences.labels(*labels)
        self.retries = calls.retries.labels(*labels)


class _AtScrape(Collector):
    """Metrics that a function returns at each scrape, for those whose labels come and go."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        return self._collect()


class Metrics:
    """Every metric of the gateway; each method takes a few microseconds and is thread-safe.

    Attributes:
        registry: The registry that a scrape reads.
    """

    def __init__(self, version: str) -> None:
        """Declare the metrics; `version` is the project's."""
        # Otherwise every histogram and counter has another series with its creation time, which nobody reads.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self._sequences, self._calls = _SequenceFamilies(registry), _CallFamilies(registry)
        self._requests = Counter("ostinato_http_requests", "Finished HTTP requests.", _HTTP, registry=registry)
        self._duration = Histogram(
            "ostinato_http_request_duration_seconds",
            "Time from a request's head to the last byte of its response.",
            _HTTP,
            registry=registry,
            buckets=_LATENCIES_S,
        )
        self._errors = Counter("ostinato_errors", "Errors sent to clients, by code.", ("code",), registry=registry)
        self._http: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        Info("ostinato_build", "Version of the gateway.", registry=registry).info({"version": version})
        prometheus_client.ProcessCollector(registry=registry)
        prometheus_client.PlatformCollector(registry=registry)

    def sequence_started(self, sequence: Sequence, waited_s: float) -> None:
        """Count a sequence that got its slot, with the other choices of its prompt, after it had waited."""
        series = self._sequences[sequence.model]
        series.queue_wait.observe(waited_s)
        series.prefix_queries.inc(sequence.num_cached_tokens + sequence.num_remaining_prompt_tokens)
        series.prefix_hits.inc(sequence.num_cached_tokens)

    def call_completed(self, call: Call, seconds: float) -> None:
        """Count a call that a backend responded to."""
        series, num_used = self._calls[call.model, call.signature], len(call.sequences)
        series.duration.observe(seconds)
        series.sequences.observe(num_used)
        series.padding_sequences.inc(call.batch_size - num_used)

    def call_failed(self, call: Call, error: GatewayError, again: bool) -> None:
        """Count a failed call; `again`: it will be retried."""
        model = call.model
        self._calls.failures.labels(model.name, model.version, call.signature, error.code or error.type).inc()
        if again:
            self._calls[model, call.signature].retries.inc()

    def cancelled(self, sequences: Iterable[Sequence]) -> None:
        """Count cancelled sequences."""
        for sequence in sequences:
            self._sequences[sequence.model].cancelled.inc()

    def first_token(self, model: ModelVersion, seconds: float) -> None:
        """Observe the time to the first token of a request."""
        self._sequences[model].first_token.observe(seconds)

    def token_gap(self, model: ModelVersion, seconds: float, count: int) -> None:
        """Observe `count` tokens, at least one, of a choice that arrived together, `seconds` after the previous ones.

        Each token counts with an equal share of the time: a chunk is weighted by its tokens, and a quantile is one of
        tokens.
        """
        self._sequences[model].token_gap.observe_tokens(seconds, count)

    def finished(
        self, model: ModelVersion, *, num_prompt_tokens: int, num_completion_tokens: int, reasons: Iterable[str]
    ) -> None:
        """Count the tokens of an ended request, and its finished choices by their finish `reasons`."""
        series = self._sequences[model]
        series.prompt_tokens.inc(num_prompt_tokens)
        series.completion_tokens.inc(num_completion_tokens)
        for reason in reasons:
            self._sequences.finished.labels(model.name, model.version, reason).inc()

    def responded(self, *, method: str, route: str | None, status: int, error_code: str | None, seconds: float) -> None:
        """Count a request whose response was sent to the last byte.

        Args:
            method: As sent by the client.
            route: The URL rule that matched, as declared, never the path; None: no rule matched.
            status: HTTP status of the response.
            error_code: The error's code, or its type if it has no code, also within a stream; None: no error.
            seconds: Since the request's head.
        """
        key = (method if method in HTTP_METHODS else "other", route or "other", status)
        series = self._http.get(key)
        if series is None:
            series = self._http[key] = (self._requests.labels(*key), self._duration.labels(*key))
        series[0].inc()
        series[1].observe(seconds)
        if error_code is not None:
            self._errors.labels(error_code).inc()

    def watch_load(self, loads: Loads, num_tokens: Callable[[], int]) -> None:
        """Report the scheduler's load at each scrape.

        Args:
            loads: Returns for each model version the numbers of running and of waiting sequences.
            num_tokens: Returns the tokens that all of those may still prefill and generate.
        """

        def collect() -> list[Metric]:
            running = GaugeMetricFamily("ostinato_sequences_running", "Sequences that hold a slot.", labels=_MODEL)
            waiting = GaugeMetricFamily("ostinato_sequences_waiting", "Sequences that wait for a slot.", labels=_MODEL)
            # Zeros for idle versions: a series that comes and goes cannot be distinguished from a lost one.
            counts = dict.fromkeys(list(self._sequences), (0, 0))
            counts |= {model: (num_running, num_waiting) for model, num_running, num_waiting in loads()}
            for model, (num_running, num_waiting) in counts.items():
                labels = (model.name, str(model.version))
                running.add_metric(labels, num_running)
                waiting.add_metric(labels, num_waiting)
            return [running, waiting]

        self.registry.register(_AtScrape(collect))
        help_text = "Tokens that accepted sequences, running or waiting, may still prefill and generate."
        self._gauge("queued_tokens", help_text, num_tokens)

    def watch_prefixes(self, cache: PrefixCache) -> None:
        """Report the size of the prefix cache at each scrape."""
        self._gauge("prefix_cache_bytes", "Memory that cached states take.", lambda: cache.num_bytes)
        self._gauge("prefix_cache_states", "Cached states.", lambda: len(cache))
        name, help_text = "ostinato_prefix_cache_evicted_states", "States that were evicted."
        collect = lambda: [CounterMetricFamily(name, help_text, value=cache.num_evicted)]  # noqa: E731
        self.registry.register(_AtScrape(collect))

    def watch_servers(self, states: Callable[[], Iterable[bool]]) -> None:
        """Report the number of backends at each scrape; `states` returns for each whether it gets calls."""
        gauge = Gauge("ostinato_backends", "Backends, by whether they get calls.", ["state"], registry=self.registry)
        gauge.labels("serving").set_function(lambda: sum(states()))
        gauge.labels("ejected").set_function(lambda: sum(not is_serving for is_serving in states()))

    def watch_request_memory(self, budget: MemoryBudget) -> None:
        """Report the memory that requests hold, and its limit, at each scrape."""
        help_text = "Memory that bodies, prompts and responses of requests in flight hold."
        self._gauge("request_memory_bytes", help_text, lambda: budget.num_bytes)
        help_text = "Limit of that memory; requests beyond it get 429."
        self._gauge("request_memory_limit_bytes", help_text, lambda: budget.max_bytes)

    def watch_config_drift(self, seconds: Callable[[], Mapping[str, float]]) -> None:
        """Report at each scrape for how long each backend, by address, has served other versions than configured."""

        def collect() -> list[Metric]:
            drift = GaugeMetricFamily(
                "ostinato_backend_config_drift_seconds",
                "Time for which a backend has served other versions than models.config lists; 0: it serves those.",
                labels=["backend"],
            )
            for address, drift_s in seconds().items():
                drift.add_metric([address], drift_s)
            return [drift]

        self.registry.register(_AtScrape(collect))

    def _gauge(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Declare a gauge that is read at each scrape."""
        Gauge(f"ostinato_{name}", help_text, registry=self.registry).set_function(value)

    def forget(self, model: ModelVersion) -> None:
        """Remove the series of a version that is no longer served; a late observation creates them again."""
        self._sequences.forget(model)
        self._calls.forget(model)

    def keep(self, models: Iterable[ModelVersion]) -> None:
        """Remove the series of all other versions; called regularly, it also removes those of late observations."""
        counted = {*list(self._sequences), *(model for model, _ in list(self._calls))}
        for model in counted.difference(models):
            self.forget(model)


def _remove(families: Iterable[Counter | Histogram], model: ModelVersion) -> None:
    for family in families:
        family.remove_by_labels({"model": model.name, "version": str(model.version)})
