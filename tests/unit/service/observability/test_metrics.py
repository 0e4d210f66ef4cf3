"""Metrics after events, and the server of scrapes."""

import http.client
import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager

import numpy as np
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families as parse

from service.errors import BackendUnavailable, InternalError
from service.memory import MemoryBudget, MemoryLease
from service.observability import scrape
from service.observability.metrics import Metrics
from service.observability.scrape import serve_metrics
from service.scheduling.prefix_cache import Prefix, PrefixCache
from service.scheduling.sequence import ModelVersion
from tests.fakes import make_sequence
from tests.metrics import DEMO, happen, make_call, watch
from tests.waiting import until

LIMIT_S = 10.0  # patience with what takes milliseconds on an idle machine
DEMO_LABELS = {"model": "demo", "version": "3"}


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(f"sostenuto_{name}", labels)


def text_of(metrics):
    return generate_latest(metrics.registry).decode()


@pytest.fixture
def metrics():
    return Metrics("1.2.3")


@contextmanager
def serving(metrics, host="127.0.0.1", family=socket.AF_INET):
    """Serve the metrics, and yield the address."""
    server = serve_metrics(socket.create_server((host, 0), family=family, backlog=128), metrics.registry)
    try:
        yield server.socket.getsockname()
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def server(metrics):
    with serving(metrics) as address:
        yield address


def get(address, path="/metrics", **headers):
    connection = http.client.HTTPConnection(*address[:2], timeout=LIMIT_S)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type"), response.read().decode()
    finally:
        connection.close()


def test_the_state_is_read_at_the_scrape(metrics):
    loads, budget, cache = {DEMO: (5, 7)}, MemoryBudget(10_000_000), PrefixCache(1000)
    counts, backends = {"busy": 0, "batching": 0}, [("a:1", True, 0.0), ("b:1", True, 0.0), ("c:1", False, 75.5)]
    watched = {"loads": lambda: loads, "num_tokens": lambda: 1000 * len(loads), "prefix_cache": cache}
    watch(metrics, **watched, memory=budget, backends=lambda: backends, rejections=lambda: counts)
    metrics.first_token(DEMO, 0.1)
    assert value(metrics, "sequences_running", **DEMO_LABELS) == 5
    assert value(metrics, "sequences_waiting", **DEMO_LABELS) == 7
    assert value(metrics, "queued_tokens") == 1000
    loads.clear()
    assert value(metrics, "sequences_running", **DEMO_LABELS) == 0
    assert value(metrics, "queued_tokens") == 0
    with closing(MemoryLease(budget)) as lease:
        lease.hold(1_000_000, "the body")
        assert value(metrics, "request_memory_bytes") == 1_000_000
    assert value(metrics, "request_memory_bytes") == 0
    assert value(metrics, "request_memory_limit_bytes") == 10_000_000
    for token_id in (1, 2):
        prefix = Prefix(b"here")
        prefix.extend([token_id])
        cache.keep(prefix, np.zeros(30, np.float32))
    assert value(metrics, "prefix_cache_states") == 1
    assert value(metrics, "prefix_cache_bytes") == cache.num_bytes == 760
    assert value(metrics, "prefix_cache_evicted_states_total") == 1
    assert value(metrics, "call_rejections_total", reason="busy") == 0
    counts["busy"] = 3
    assert [value(metrics, "call_rejections_total", reason=reason) for reason in counts] == [3, 0]
    assert [value(metrics, "backends", state=state) for state in ("serving", "ejected")] == [2, 1]
    assert value(metrics, "backend_config_drift_seconds", backend="a:1") == 0
    assert value(metrics, "backend_config_drift_seconds", backend="c:1") == 75.5
    backends.clear()
    assert [value(metrics, "backends", state=state) for state in ("serving", "ejected")] == [0, 0]


def test_inter_token_latency_counts_every_token(metrics):
    """A chunk of 32 tokens weighs 32 times as much as one of a single token."""
    metrics.token_gap(DEMO, 0.032, 32)
    metrics.token_gap(DEMO, 0.5, 1)
    assert value(metrics, "inter_token_latency_seconds_count", **DEMO_LABELS) == 33
    assert value(metrics, "inter_token_latency_seconds_sum", **DEMO_LABELS) == pytest.approx(0.532)
    assert value(metrics, "inter_token_latency_seconds_bucket", le="0.001", **DEMO_LABELS) == 32
    assert value(metrics, "inter_token_latency_seconds_bucket", le="0.1", **DEMO_LABELS) == 32
    assert value(metrics, "inter_token_latency_seconds_bucket", le="0.5", **DEMO_LABELS) == 33


def test_completed_calls_are_counted_by_signature(metrics):
    metrics.call_completed(make_call(num_used=3, signature="prefill"), 0.01)
    metrics.call_completed(make_call(num_used=5, signature="decode"), 0.03)
    labels = {**DEMO_LABELS, "signature": "decode"}
    assert value(metrics, "call_duration_seconds_count", **labels) == 1
    assert value(metrics, "call_duration_seconds_sum", **labels) == pytest.approx(0.03)
    assert value(metrics, "call_sequences_sum", **labels) == 5
    assert value(metrics, "call_padding_sequences_total", **labels) == 3
    assert value(metrics, "call_sequences_sum", **{**labels, "signature": "prefill"}) == 3


def test_failed_calls_are_counted_by_code_and_retries_separately(metrics):
    metrics.call_failed(make_call(), BackendUnavailable("away"), True)
    metrics.call_failed(make_call(), BackendUnavailable("away"), False)
    metrics.call_failed(make_call(), InternalError("refused"), False)
    labels = {**DEMO_LABELS, "signature": "decode"}
    assert value(metrics, "call_failures_total", code="backend_unavailable", **labels) == 2
    assert value(metrics, "call_failures_total", code="server_error", **labels) == 1
    assert value(metrics, "call_retries_total", **labels) == 1


def test_sequences_are_counted_by_version(metrics):
    happen(metrics)
    happen(metrics, ModelVersion("demo", 4))
    for version in ("3", "4"):
        labels = {"model": "demo", "version": version}
        assert value(metrics, "queue_wait_seconds_sum", **labels) == pytest.approx(0.2)
        assert value(metrics, "time_to_first_token_seconds_sum", **labels) == pytest.approx(0.1)
        assert value(metrics, "sequences_cancelled_total", **labels) == 1
        assert value(metrics, "prompt_tokens_total", **labels) == 5
        assert value(metrics, "completion_tokens_total", **labels) == 7
        assert value(metrics, "sequences_finished_total", reason="stop", **labels) == 1
        assert value(metrics, "sequences_finished_total", reason="length", **labels) == 1


def test_unknown_methods_and_routes_share_one_series(metrics):
    for number in range(100):
        metrics.responded(method=f"M{number}", route=None, status=405, error_code=None, seconds=0.1)
    assert value(metrics, "http_requests_total", method="other", route="other", status="405") == 100
    assert text_of(metrics).count("sostenuto_http_requests_total{") == 1


def test_errors_within_a_stream_are_counted_by_code(metrics):
    metrics.responded(method="POST", route="/v1/completions", status=200, error_code="version_gone", seconds=1)
    metrics.responded(method="POST", route="/v1/completions", status=200, error_code=None, seconds=1)
    assert value(metrics, "errors_total", code="version_gone") == 1
    labels = {"method": "POST", "route": "/v1/completions", "status": "200"}
    assert value(metrics, "http_requests_total", **labels) == 2
    assert value(metrics, "http_request_duration_seconds_sum", **labels) == 2


def test_removed_versions_leave_no_series(metrics):
    other = ModelVersion("demo", 4)
    happen(metrics)
    happen(metrics, other)
    for _ in range(2):
        metrics.keep([other])
        assert 'version="3"' not in text_of(metrics)
    happen(metrics)
    assert value(metrics, "call_retries_total", signature="decode", **DEMO_LABELS) == 1
    assert value(metrics, "time_to_first_token_seconds_count", **DEMO_LABELS) == 1
    assert value(metrics, "call_retries_total", model="demo", version="4", signature="decode") == 1


def test_scrapes_are_consistent_during_concurrent_writes(metrics, server):
    num_writers, num_writes, counts = 4, 300, []

    def write():
        for number in range(num_writes):
            happen(metrics, ModelVersion("demo", number % 5))

    with ThreadPoolExecutor(num_writers) as pool:
        writers = [pool.submit(write) for _ in range(num_writers)]
        while not all(writer.done() for writer in writers):
            families = {family.name: family for family in parse(get(server)[2])}
            samples = families["sostenuto_inter_token_latency_seconds"].samples
            counts.append(sum(sample.value for sample in samples if sample.name.endswith("_count")))
    assert counts == sorted(counts)
    name = "inter_token_latency_seconds_count"
    total = sum(value(metrics, name, model="demo", version=str(number)) for number in range(5))
    assert total == 4 * num_writers * num_writes


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metricsx", "/healthz"])
def test_only_the_path_metrics_is_served(server, path):
    assert get(server, path)[0] == 404


def test_dns_rebinding_is_refused(server):
    assert get(server, Host="evil.example:8001")[0] == 421
    assert get(server, Host="localhost:8001")[0] == 200


def test_a_query_selects_metrics_by_name(metrics, server):
    text = get(server, "/metrics?name[]=sostenuto_build_info")[2]
    assert [family.name for family in parse(text)] == ["sostenuto_build_info"]
    assert value(metrics, "build_info", version="1.2.3") == 1


def connection_threads():
    return {thread for thread in threading.enumerate() if "process_request_thread" in thread.name}


def test_silent_clients_do_not_block_scrapes(server, monkeypatch):
    # No connection is closed by the timeout.
    monkeypatch.setattr(scrape._Handler, "timeout", 100 * LIMIT_S)
    # Servers of other tests may have threads in this process.
    others = connection_threads()
    silent = []
    for _ in range(scrape._Server.max_connections + 20):
        # Each sends before a later connection can close it.
        silent.append(socket.create_connection(server, timeout=LIMIT_S))
        silent[-1].sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
    assert get(server)[0] == 200
    assert silent[0].recv(1) == b""
    assert get(server)[0] == 200
    # The thread of a closed connection takes a moment to end.
    until(lambda: len(connection_threads() - others) <= scrape._Server.max_connections)
    for sock in silent:
        sock.close()


def test_a_silent_client_is_disconnected_after_a_timeout(metrics, monkeypatch):
    monkeypatch.setattr(scrape._Handler, "timeout", scrape._Handler.timeout / 200)
    with serving(metrics) as address, socket.create_connection(address, timeout=LIMIT_S) as silent:
        assert silent.recv(1) == b""


def test_a_failed_scrape_is_logged_and_the_next_one_succeeds(metrics, server, caplog):
    failures = [ValueError("the load cannot be told")]

    def loads():
        if failures:
            raise failures.pop()
        return {}

    watch(metrics, loads=loads)
    with caplog.at_level(logging.ERROR), pytest.raises(http.client.HTTPException):
        get(server)
    assert get(server)[0] == 200
    assert "the load cannot be told" in caplog.text


def test_ipv6_is_served(metrics):
    """The server takes the address family of its socket."""
    with ExitStack() as stack:
        try:
            address = stack.enter_context(serving(metrics, "::1", socket.AF_INET6))
        except OSError:
            pytest.skip("no IPv6 on this machine")
        assert get(address)[0] == 200


def test_hit_tokens_are_the_prefill_that_was_saved(metrics):
    for num_cached_tokens in (0, 5):
        known = make_sequence(version=DEMO, prompt_ids=np.arange(8, dtype=np.int32))
        if num_cached_tokens:
            known.num_prefilled = known.num_cached_tokens = num_cached_tokens
        metrics.sequence_started(known, 0.1)
    assert value(metrics, "prefix_cache_queried_tokens_total", **DEMO_LABELS) == 14
    assert value(metrics, "prefix_cache_hit_tokens_total", **DEMO_LABELS) == 5
