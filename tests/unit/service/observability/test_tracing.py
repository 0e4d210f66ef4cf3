"""Tracing: spans of requests and calls, and their export to a collector over HTTP."""

import logging
import queue
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service.errors import BackendUnavailable, InvalidRequest, VersionGone
from service.observability.tracing import RPC, Tracing
from service.scheduling.call import Call
from service.scheduling.sequence import ModelVersion
from tests.fakes import make_sequence
from tests.http_server import http_server

PATIENCE_S = 20.0  # with what takes milliseconds on an idle machine
POST = {"method": "POST", "route": "/v1/completions", "path": "/v1/completions"}
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
ADDRESS = "10.0.0.7:8500"


@pytest.fixture
def collector():
    """A collector of spans, by OTLP over HTTP: the status of its responses, and the requests with their paths."""
    received = SimpleNamespace(status=200, requests=queue.SimpleQueue())

    def answer(path, body):
        received.requests.put((path, ExportTraceServiceRequest.FromString(body)))
        return received.status, b""

    with http_server(answer) as port:
        received.endpoint = f"http://127.0.0.1:{port}/v1/traces"
        yield received


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter) -> Iterator[Tracing]:
    tracing = Tracing(exporter, ratio=1.0, version="1.2.3")
    yield tracing
    tracing.shutdown()


def call(*traces):
    sequences = tuple(make_sequence(trace=trace) for trace in traces)
    return Call(ModelVersion("demo", 3), "decode", sequences, batch_size=8, size=16)


def spans_of(tracing, exporter):
    """Return the finished spans: those of requests, then those of calls."""
    tracing.shutdown(PATIENCE_S)
    spans = exporter.get_finished_spans()
    return tuple([span for span in spans if span.kind is kind] for kind in (SpanKind.SERVER, SpanKind.CLIENT))


def traceparent(flags="01"):
    return {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-{flags}"}


def test_a_request_and_its_calls_are_exported_as_one_trace(collector):
    tracing = Tracing.to(collector.endpoint, ratio=1.0, version="1.2.3")
    trace = tracing.begin_request(traceparent(), **POST)
    for _ in range(2):
        tracing.end_call(tracing.begin_call(call(trace), ADDRESS))
    trace.end(200)
    tracing.shutdown(PATIENCE_S)
    path, sent = collector.requests.get(timeout=PATIENCE_S)
    assert path == "/v1/traces"
    (group,) = sent.resource_spans
    resource = {attribute.key: attribute.value.string_value for attribute in group.resource.attributes}
    assert (resource["service.name"], resource["service.version"]) == ("sostenuto-gateway", "1.2.3")
    (scope,) = group.scope_spans
    spans = {span.name: span for span in scope.spans}
    request, rpc = spans["POST /v1/completions"], spans[RPC]
    assert len(scope.spans) == 3
    assert request.trace_id.hex() == rpc.trace_id.hex() == TRACE_ID
    assert request.parent_span_id.hex() == PARENT_ID
    assert rpc.parent_span_id == request.span_id
    assert request.start_time_unix_nano <= rpc.start_time_unix_nano <= rpc.end_time_unix_nano
    assert rpc.end_time_unix_nano <= request.end_time_unix_nano


def test_a_batched_call_is_in_the_trace_of_each_of_its_requests(tracing, exporter):
    first, second = (tracing.begin_request({}, **POST) for _ in range(2))
    tracing.end_call(tracing.begin_call(call(first, None, second, first), ADDRESS))
    tracing.end_call(tracing.begin_call(call(second), ADDRESS))
    first.end(200)
    second.end(200)
    requests, calls = spans_of(tracing, exporter)
    assert len(requests) == 2
    assert len(calls) == 3
    shared, alone = calls[:2], calls[2]
    assert {span.parent.span_id for span in shared} == {span.context.span_id for span in requests}
    assert len({span.attributes["sostenuto.call.id"] for span in shared}) == 1
    assert alone.attributes["sostenuto.call.id"] != shared[0].attributes["sostenuto.call.id"]
    attributes = dict(shared[0].attributes)
    del attributes["sostenuto.call.id"]
    rpc = {"rpc.system.name": "grpc", "rpc.method": "tensorflow.serving.PredictionService/Predict"}
    rpc |= {"rpc.response.status_code": "OK", "server.address": "10.0.0.7", "server.port": 8500}
    of_call = {"signature": "decode", "batch_size": 8, "sequences": 4, "request_sequences": 2, "steps": 16}
    own = {f"sostenuto.call.{name}": value for name, value in of_call.items()}
    assert attributes == {**rpc, **own, "sostenuto.model.name": "demo", "sostenuto.model.version": 3}


def test_a_call_propagates_the_trace_of_its_first_traced_request(tracing):
    trace = tracing.begin_request(traceparent() | {"tracestate": "vendor=1"}, **POST)
    begun = tracing.begin_call(call(None, trace), ADDRESS)
    span_id = begun.spans[0].get_span_context().span_id
    assert dict(begun.metadata) == {"traceparent": f"00-{TRACE_ID}-{span_id:016x}-01", "tracestate": "vendor=1"}


def test_a_call_without_traced_requests_has_no_span(tracing, exporter):
    assert tracing.begin_call(call(None, None), ADDRESS) is None
    tracing.end_call(None, BackendUnavailable("away"))
    assert spans_of(tracing, exporter) == ([], [])


def test_a_request_span_has_model_usage_and_status(tracing, exporter):
    """The attributes have the names of OpenTelemetry's semantic conventions, where there are any."""
    trace = tracing.begin_request({}, **POST)
    trace.set_request("demo")
    trace.set_result(version=3, num_prompt_tokens=5, num_completion_tokens=7, reasons=["stop", "length"])
    trace.end(200)
    ((span,), _) = spans_of(tracing, exporter)
    assert span.name == "POST /v1/completions"
    assert span.status.status_code is StatusCode.UNSET
    http = {"http.request.method": "POST", "http.route": "/v1/completions", "http.response.status_code": 200}
    http |= {"url.path": "/v1/completions", "url.scheme": "http"}
    usage = {"gen_ai.usage.input_tokens": 5, "gen_ai.usage.output_tokens": 7}
    gen_ai = {"gen_ai.operation.name": "text_completion", "gen_ai.request.model": "demo", **usage}
    gen_ai |= {"gen_ai.response.finish_reasons": ("stop", "length")}
    assert dict(span.attributes) == {**http, **gen_ai, "sostenuto.model.version": 3}


@pytest.mark.parametrize(
    ("status", "error", "kind", "failed"),
    [
        (400, InvalidRequest("n must be at most 8, got 9"), "invalid_request_error", False),
        (503, BackendUnavailable("away"), "backend_unavailable", True),
        (200, VersionGone("within a stream"), "version_gone", True),
        (500, None, "500", True),
    ],
)
def test_server_errors_mark_the_span_as_failed_and_client_errors_do_not(tracing, exporter, status, error, kind, failed):
    tracing.begin_request({}, **POST).end(status, error)
    ((span,), _) = spans_of(tracing, exporter)
    assert span.attributes["error.type"] == kind
    assert (span.status.status_code is StatusCode.ERROR) == failed


def test_a_failed_call_marks_its_span_with_the_error_code(tracing, exporter):
    trace = tracing.begin_request({}, **POST)
    tracing.end_call(tracing.begin_call(call(trace), ADDRESS), BackendUnavailable("away"))
    _, (span,) = spans_of(tracing, exporter)
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "backend_unavailable"
    assert "rpc.response.status_code" not in span.attributes


def test_unknown_methods_and_paths_are_not_in_the_span_name(tracing, exporter):
    """Names have low cardinality; the method is an attribute."""
    tracing.begin_request({}, method="BREW", route=None, path="/pot").end(404)
    ((span,), _) = spans_of(tracing, exporter)
    assert span.name == "HTTP"
    assert span.attributes["http.request.method"] == "_OTHER"
    assert span.attributes["http.request.method_original"] == "BREW"


@pytest.mark.parametrize(
    ("ratio", "headers", "traced"),
    [(1.0, {}, True), (0.0, {}, False), (1.0, traceparent("00"), False), (0.0, traceparent("01"), True)],
)
def test_the_sampled_flag_of_traceparent_overrides_the_ratio(exporter, ratio, headers, traced):
    tracing = Tracing(exporter, ratio=ratio, version="1")
    trace = tracing.begin_request(headers, **POST)
    assert (trace is not None) == traced
    tracing.end_call(tracing.begin_call(call(trace), ADDRESS))
    if trace:
        trace.end(200)
    requests, calls = spans_of(tracing, exporter)
    assert (len(requests), len(calls)) == ((1, 1) if traced else (0, 0))


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": "nonsense"},
        {"traceparent": f"00-{'0' * 32}-{PARENT_ID}-01"},
        {"traceparent": "0" * 5000},
        {**traceparent(), "tracestate": "x" * 5000},
        {**traceparent(), "tracestate": "=,\n"},
    ],
)
def test_invalid_trace_headers_are_ignored_without_a_log_line(tracing, exporter, headers, capfd, caplog):
    """A client can neither break its request nor fill the log with a header."""
    tracing.begin_request(headers, **POST).end(200)
    ((span,), _) = spans_of(tracing, exporter)
    assert (span.context.trace_id == int(TRACE_ID, 16)) == ("tracestate" in headers)
    assert (capfd.readouterr().err, caplog.text) == ("", "")


def test_a_collector_that_refuses_is_logged_once(collector, caplog):
    collector.status = 401
    tracing = Tracing.to(collector.endpoint, ratio=1.0, version="1")

    def send(num_batches):
        for _ in range(512 * num_batches):
            tracing.begin_request({}, **POST).end(200)
        for _ in range(num_batches):
            collector.requests.get(timeout=PATIENCE_S)

    with caplog.at_level(logging.INFO):
        send(3)
        collector.status = 200
        send(2)
        tracing.shutdown(PATIENCE_S)
    refused, well = [record.getMessage() for record in caplog.records if record.name == "service.observability.tracing"]
    assert "401" in refused
    assert "has recovered" in well


class StuckExporter(InMemorySpanExporter):
    """An exporter whose collector does not respond until `released`."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.released = threading.Event(), threading.Event()

    def export(self, spans):
        self.reached.set()
        self.released.wait()
        return super().export(spans)


def test_a_collector_that_does_not_respond_blocks_neither_requests_nor_shutdown():
    exporter = StuckExporter()
    tracing = Tracing(exporter, ratio=1.0, version="1")

    def serve():
        for _ in range(10_000):
            tracing.begin_request({}, **POST).end(200)
        tracing.shutdown(timeout_s=0.01)

    serving = threading.Thread(target=serve, daemon=True)
    serving.start()
    try:
        assert exporter.reached.wait(PATIENCE_S)
        serving.join(PATIENCE_S)
        assert not serving.is_alive()
    finally:
        exporter.released.set()
        serving.join(PATIENCE_S)
