"""What is counted and timed, in Prometheus's terms.

Knows calls, texts and the numbers of a request. Does not know Flask, who calls, or where the metrics are read. Labels
have few values: versions that are served, signatures, routes as they are declared; nothing that a client made up.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, Info
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.errors import GatewayError
from service.memory import MemoryBudget
from service.scheduling.call import Call
from service.scheduling.prefix_cache import PrefixCache
from service.scheduling.sequence import ModelVersion, Sequence

# Returns for each model version: texts that hold a row, and texts that wait for one.
Loads = Callable[[], Iterable[tuple[ModelVersion, int, int]]]

_MODEL = ("model", "version")
_CALL = (*_MODEL, "signature")
_HTTP = ("method", "route", "status")
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

# From a first token alone, some 15 ms, to a text that waits out an outage; about three buckets a decade.
_LATENCIES_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
# Calls are cut to last some 30 ms at 512 units, hence the fine steps there; a call has 30 s at most.
_CALLS_S = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2, 0.5, 1, 5, 30)
# Calls are padded to multiples of 8 up to 64, so each bucket is one padded size; the small ones tell idle hours apart.
_BATCH_SIZES = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64)
# A text alone has 0.2 ms a token, one of 64 has 1 ms; from 50 ms on a reader notices.
_GAPS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1)


class _TokenHistogram(Histogram):
    """A histogram in which one observation counts for many tokens."""

    def observe_tokens(self, seconds: float, count: int) -> None:
        """Note `count` tokens that took `seconds` together."""
        self._sum.inc(seconds)
        self._buckets[bisect_left(self._upper_bounds, seconds / count)].inc(count)


class _Texts(dict[ModelVersion, "_TextSeries"]):
    """The series of each model version's texts; a missing one is made."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"ostinato_{name}", text, _MODEL, registry=registry, buckets=_LATENCIES_S)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"ostinato_{name}", text, (*_MODEL, *labels), registry=registry)

        self.queue_wait = histogram("queue_wait_seconds", "Time from acceptance to a row, of each prompt.")
        self.first_token = histogram(
            "time_to_first_token_seconds", "Time from the start of a request to its first token."
        )
        self.token_gap = _TokenHistogram(
            "ostinato_inter_token_latency_seconds",
            "Time per token after the first, each token counted: sum by count is the mean, its inverse a text's speed.",
            _MODEL,
            registry=registry,
            buckets=_GAPS_S,
        )
        self.cancelled = counter("sequences_cancelled", "Texts given up: the client left, or the time was over.")
        self.finished = counter("sequences_finished", "Texts that ended, by finish reason.", "reason")
        # Both by tokens, as is usual: their ratio is the share of reading that was saved.
        self.prefix_queries = counter(
            "prefix_cache_queried_tokens", "Prompt tokens that were to be read, of texts that were started."
        )
        self.prefix_hits = counter("prefix_cache_hit_tokens", "Of those, tokens whose state was known.")
        self.prompt_tokens = counter("prompt_tokens", "Tokens of the prompts of requests that are over.")
        self.completion_tokens = counter("completion_tokens", "Tokens written in requests that are over.")

    def __missing__(self, model: ModelVersion) -> "_TextSeries":
        series = self[model] = _TextSeries(self, model)
        return series

    def forget(self, model: ModelVersion) -> None:
        """Drop a version's series."""
        self.pop(model, None)
        _remove(vars(self).values(), model)


class _TextSeries:
    def __init__(self, texts: _Texts, model: ModelVersion) -> None:
        labels = (model.name, str(model.version))
        self.queue_wait = texts.queue_wait.labels(*labels)
        self.first_token = texts.first_token.labels(*labels)
        self.token_gap = texts.token_gap.labels(*labels)
        self.cancelled = texts.cancelled.labels(*labels)
        self.prefix_queries = texts.prefix_queries.labels(*labels)
        self.prefix_hits = texts.prefix_hits.labels(*labels)
        self.prompt_tokens = texts.prompt_tokens.labels(*labels)
        self.completion_tokens = texts.completion_tokens.labels(*labels)


class _Calls(dict[tuple[ModelVersion, str], "_CallSeries"]):
    """The series of each model version's calls, by signature; a missing one is made."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"ostinato_call_{name}", text, _CALL, registry=registry, buckets=buckets)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"ostinato_call_{name}", text, (*_CALL, *labels), registry=registry)

        self.duration = histogram("duration_seconds", "Time from sending a call to its answer.", _CALLS_S)
        self.sequences = histogram("sequences", "Sequences of an answered call, padding not counted.", _BATCH_SIZES)
        self.padding_sequences = counter("padding_sequences", "Slots of answered calls that held no sequence.")
        self.failures = counter("failures", "Calls that failed, by the error's code.", "code")
        self.retries = counter("retries", "Failed calls that are made again.")

    def __missing__(self, key: tuple[ModelVersion, str]) -> "_CallSeries":
        series = self[key] = _CallSeries(self, *key)
        return series

    def forget(self, model: ModelVersion) -> None:
        """Drop a version's series."""
        for key in [key for key in list(self) if key[0] == model]:
            self.pop(key, None)
        _remove(vars(self).values(), model)


class _CallSeries:
    def __init__(self, calls: _Calls, model: ModelVersion, signature: str) -> None:
        labels = (model.name, str(model.version), signature)
        self.duration = calls.duration.labels(*labels)
        self.sequences = calls.sequences.labels(*labels)
        self.padding_sequences = calls.padding_sequences.labels(*labels)
        self.retries = calls.retries.labels(*labels)


class _Load(Collector):
    """Gauges that are read when they are asked for."""

    def __init__(self, known: Iterable[ModelVersion], loads: Loads, num_tokens: Callable[[], int]) -> None:
        self._known, self._loads, self._num_tokens = known, loads, num_tokens

    def collect(self) -> Iterator[Metric]:
        """Ask how much there is to do."""
        running = GaugeMetricFamily("ostinato_sequences_running", "Texts that hold a row.", labels=_MODEL)
        waiting = GaugeMetricFamily("ostinato_sequences_waiting", "Texts that wait for a row.", labels=_MODEL)
        # Zeros for versions that have nothing to do now: a series that comes and goes cannot be told from a lost one.
        counts = dict.fromkeys(list(self._known), (0, 0))
        counts |= {model: (num_running, num_waiting) for model, num_running, num_waiting in self._loads()}
        for model, (num_running, num_waiting) in counts.items():
            labels = (model.name, str(model.version))
            running.add_metric(labels, num_running)
            waiting.add_metric(labels, num_waiting)
        yield running
        yield waiting
        text = "Tokens that the accepted texts, running or waiting, may read and write."
        yield GaugeMetricFamily("ostinato_queued_tokens", text, value=self._num_tokens())


class _Prefixes(Collector):
    """The numbers of the prefix cache, read when they are asked for."""

    def __init__(self, cache: PrefixCache) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        """Ask how full it is."""
        cache = self._cache
        yield GaugeMetricFamily("ostinato_prefix_cache_bytes", "Memory that kept states take.", value=cache.num_bytes)
        yield GaugeMetricFamily("ostinato_prefix_cache_states", "States kept.", value=len(cache))
        text = "States that had to make room for others."
        yield CounterMetricFamily("ostinato_prefix_cache_evicted_states", text, value=cache.num_evicted)


class _Servers(Collector):
    """How many model servers take calls, counted when it is asked for."""

    def __init__(self, states: Callable[[], Iterable[bool]]) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        """Count them."""
        states = list(self._states())
        servers = GaugeMetricFamily("ostinato_backends", "Backends, by whether they get calls.", labels=["state"])
        servers.add_metric(["serving"], sum(states))
        servers.add_metric(["ejected"], len(states) - sum(states))
        yield servers


class _RequestMemory(Collector):
    """How much of the budget for requests is taken, read when it is asked for."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget

    def collect(self) -> Iterator[Metric]:
        """Read both."""
        help_text = "Memory that bodies, prompts and responses of requests in flight hold."
        yield GaugeMetricFamily("ostinato_request_memory_bytes", help_text, value=self._budget.num_bytes)
        help_text = "What that may be at most; requests beyond it are answered 429."
        yield GaugeMetricFamily("ostinato_request_memory_limit_bytes", help_text, value=self._budget.max_bytes)


class _ConfigDrift(Collector):
    """For how long each backend has not served what is listed, read when it is asked for."""

    def __init__(self, seconds: Callable[[], Mapping[str, float]]) -> None:
        self._seconds = seconds

    def collect(self) -> Iterator[Metric]:
        """Ask each."""
        drift = GaugeMetricFamily(
            "ostinato_backend_config_drift_seconds",
            "Time for which a backend has served other versions than models.config lists; 0: it serves those.",
            labels=["backend"],
        )
        for address, seconds in self._seconds().items():
            drift.add_metric([address], seconds)
        yield drift


class Metrics:
    """Every metric of the gateway; each method takes a few microseconds and may be called on any thread.

    Attributes:
        registry: What a scrape reads.
    """

    def __init__(self, version: str) -> None:
        """Declare the metrics; `version` is the project's."""
        # A series more for each histogram and counter, which says when it was made: nobody reads it.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self._texts, self._calls = _Texts(registry), _Calls(registry)
        self._requests = Counter("ostinato_http_requests", "Requests answered.", _HTTP, registry=registry)
        self._duration = Histogram(
            "ostinato_http_request_duration_seconds",
            "Time from a request's head to the last byte of its answer.",
            _HTTP,
            registry=registry,
            buckets=_LATENCIES_S,
        )
        self._errors = Counter("ostinato_errors", "Errors that clients were told of.", ("code",), registry=registry)
        self._http: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        Info("ostinato_build", "What runs.", registry=registry).info({"version": version})
        prometheus_client.ProcessCollector(registry=registry)
        prometheus_client.PlatformCollector(registry=registry)

    def started(self, sequence: Sequence, waited_s: float) -> None:
        """A text, with the other choices of its prompt, got its row after it had waited."""
        series = self._texts[sequence.model]
        series.queue_wait.observe(waited_s)
        series.prefix_queries.inc(sequence.num_cached_tokens + sequence.num_remaining_prompt_tokens)
        series.prefix_hits.inc(sequence.num_cached_tokens)

    def answered(self, call: Call, seconds: float) -> None:
        """The model server answered a call."""
        series, num_used = self._calls[call.model, call.signature], len(call.sequences)
        series.duration.observe(seconds)
        series.sequences.observe(num_used)
        series.padding_sequences.inc(call.batch_size - num_used)

    def failed(self, call: Call, error: GatewayError, again: bool) -> None:
        """A call failed; whether it will be made again."""
        model = call.model
        self._calls.failures.labels(model.name, model.version, call.signature, error.code or error.type).inc()
        if again:
            self._calls[model, call.signature].retries.inc()

    def cancelled(self, sequences: Iterable[Sequence]) -> None:
        """These were given up."""
        for sequence in sequences:
            self._texts[sequence.model].cancelled.inc()

    def first_token(self, model: ModelVersion, seconds: float) -> None:
        """The first token of a request came."""
        self._texts[model].first_token.observe(seconds)

    def token_gap(self, model: ModelVersion, seconds: float, count: int) -> None:
        """So many more tokens, at least one, of a choice came at once, so long after those before.

        Each token counts, with an equal share of the time: so long chunks weigh as much as the tokens that they bring,
        and a quantile is one of tokens.
        """
        self._texts[model].token_gap.observe_tokens(seconds, count)

    def finished(
        self, model: ModelVersion, *, num_prompt_tokens: int, num_completion_tokens: int, reasons: Iterable[str]
    ) -> None:
        """A request is over; `reasons` are the finish reasons of its choices that ended."""
        series = self._texts[model]
        series.prompt_tokens.inc(num_prompt_tokens)
        series.completion_tokens.inc(num_completion_tokens)
        for reason in reasons:
            self._texts.finished.labels(model.name, model.version, reason).inc()

    def responded(self, *, method: str, route: str | None, status: int, error_code: str | None, seconds: float) -> None:
        """A request was answered, to the last byte.

        Args:
            method: As the client gave it.
            route: The rule that it matched, as it is declared, never the path; None: it matched none.
            status: Of the answer.
            error_code: The error's code, or its type if it has no code, also within a stream; None: there was no error.
            seconds: Since the request's head.
        """
        key = (method if method in _METHODS else "other", route or "other", status)
        series = self._http.get(key)
        if series is None:
            series = self._http[key] = (self._requests.labels(*key), self._duration.labels(*key))
        series[0].inc()
        series[1].observe(seconds)
        if error_code is not None:
            self._errors.labels(error_code).inc()

    def watch_load(self, loads: Loads, num_tokens: Callable[[], int]) -> None:
        """Say, at each scrape, how much there is to do.

        Args:
            loads: Returns model version, texts that hold a row, and texts that wait for one.
            num_tokens: Returns the tokens that all of those may read and write.
        """
        self.registry.register(_Load(self._texts, loads, num_tokens))

    def watch_prefixes(self, cache: PrefixCache) -> None:
        """Say, at each scrape, how full the prefix cache is."""
        self.registry.register(_Prefixes(cache))

    def watch_servers(self, states: Callable[[], Iterable[bool]]) -> None:
        """Say, at each scrape, how many model servers there are; `states` returns for each whether it gets calls."""
        self.registry.register(_Servers(states))

    def watch_request_memory(self, budget: MemoryBudget) -> None:
        """Report, at each scrape, how much memory requests hold, and the limit."""
        self.registry.register(_RequestMemory(budget))

    def watch_config_drift(self, seconds: Callable[[], Mapping[str, float]]) -> None:
        """Report, at each scrape, for how long each backend, by its address, has served what is not listed."""
        self.registry.register(_ConfigDrift(seconds))

    def forget(self, model: ModelVersion) -> None:
        """Drop the series of a version that is gone; a late observation makes them anew."""
        self._texts.forget(model)
        self._calls.forget(model)

    def keep(self, models: Iterable[ModelVersion]) -> None:
        """Forget every version but these; where it is called now and then, late observations leave no series behind."""
        known = {*list(self._texts), *(model for model, _ in list(self._calls))}
        for model in known.difference(models):
            self.forget(model)


def _remove(families: Iterable[Counter | Histogram], model: ModelVersion) -> None:
    for family in families:
        family.remove_by_labels({"model": model.name, "version": str(model.version)})
