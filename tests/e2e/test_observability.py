"""Metrics, logs, traces and status of the real gateway."""

import json

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.access import ask
from tests.http_server import http_server
from tests.waiting import until

SECRET = "It was the worst of times, and nobody is to know"
BODY = {"model": "lstm", "prompt": SECRET, "max_tokens": 30, "seed": 1}


def lines(gateway):
    return [json.loads(line) for line in gateway.output.splitlines()]


def total(found, name, **labels):
    return sum(value for (key, has), value in found.items() if key == name and set(labels.items()) <= set(has))


@pytest.fixture(scope="module")
def collector():
    """The endpoint of an OTLP/HTTP receiver, and the spans that it received."""
    spans = []

    def answer(_, body):
        request = ExportTraceServiceRequest.FromString(body)
        spans.extend(span for group in request.resource_spans for scope in group.scope_spans for span in scope.spans)
        return 200, b""

    with http_server(answer) as port:
        yield f"http://127.0.0.1:{port}/v1/traces", spans


@pytest.fixture(scope="module")
def traced(start_shared_gateway, collector):
    """A gateway that exports traces; the last test of this module ends it."""
    return start_shared_gateway(traces_endpoint=collector[0], request_memory_bytes=2**30)


def test_metrics_count_requests_tokens_sequences_calls_and_errors(traced):
    gateway = traced
    assert ask(gateway, body={**BODY, "n": 3})[0] == 200
    assert ask(gateway, body={**BODY, "presence_penalty": 1, "logprobs": 2, "echo": True})[0] == 200
    assert ask(gateway, body={**BODY, "temperature": 9})[0] == 400
    assert ask(gateway, body={**BODY, "max_tokens": 1_000_000, "timeout_s": 2})[0] == 504
    model = {"model": "lstm", "version": "1"}
    until(lambda: total(gateway.metrics(), "sostenuto_sequences_running", **model) == 0)
    found = gateway.metrics()
    prompt = len(SECRET)
    assert total(found, "sostenuto_prompt_tokens_total", **model) == 3 * prompt
    assert total(found, "sostenuto_completion_tokens_total", **model) >= 120
    assert total(found, "sostenuto_sequences_finished_total", reason="length", **model) == 4
    assert total(found, "sostenuto_sequences_cancelled_total", **model) == 1
    assert total(found, "sostenuto_time_to_first_token_seconds_count", **model) == 3
    assert total(found, "sostenuto_queue_wait_seconds_count", **model) == 3
    assert total(found, "sostenuto_inter_token_latency_seconds_count", **model) > 0
    for signature in ("prefill", "score", "decode", "decode_full"):
        assert total(found, "sostenuto_call_sequences_count", signature=signature, **model) > 0
        assert total(found, "sostenuto_call_duration_seconds_count", signature=signature, **model) > 0
    assert total(found, "sostenuto_http_requests_total", route="/v1/completions", status="200") == 2
    assert total(found, "sostenuto_errors_total", code="deadline_exceeded") == 1
    assert total(found, "sostenuto_errors_total", code="invalid_request_error") == 1
    assert gateway.ask("GET", "/metrics")[0] == 404


def test_a_request_is_one_json_log_line_without_its_text(traced):
    gateway = traced
    status, headers, _ = ask(gateway, **{"X-Request-Id": "my-own.1"})
    assert (status, headers["x-request-id"]) == (200, "my-own.1")
    _, headers, answer = ask(gateway, body=BODY, **{"X-Request-Id": "not allowed"})
    accepted, rejected = headers["x-request-id"], ask(gateway, body={**BODY, "stop": [""]})[1]["x-request-id"]
    assert accepted.startswith("req-")
    assert rejected.startswith("req-")

    def requests():
        return {line["request_id"]: line for line in lines(gateway) if line["logger"] == "service.access"}

    # A line is written after its response.
    until(lambda: {"my-own.1", accepted, rejected} <= requests().keys())
    line, failed = requests()[accepted], requests()[rejected]
    assert (line["model"], line["version"], line["status"]) == ("lstm", 1, 200)
    assert (line["prompt_tokens"], line["completion_tokens"]) == (len(SECRET), 30)
    assert (failed["status"], failed["error"]) == (400, "invalid_request_error")
    assert "worst" not in gateway.output
    assert answer["choices"][0]["text"][:10] not in gateway.output


def test_status_has_models_load_and_limits(traced):
    status = ask(traced, body=None, address="/v1/status")[2]
    assert status["status"] == "ok"
    assert [model["id"] for model in status["models"]] == ["lstm", "words"]
    assert status["sequences"] == {"accepted": 0, "max": 384}
    assert status["tokens"]["accepted"] == 0
    assert status["memory"] == {"accepted": 0, "max": 2**30}
    assert {"version", "uptime_s", "backends"} <= set(status)


def test_a_trace_links_a_request_to_its_model_server_calls(traced, collector):
    _, spans = collector
    trace_id, parent_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    ask(traced, body=BODY, traceparent=f"00-{trace_id}-{parent_id}-01")
    traced.end()
    (server,) = [span for span in spans if span.trace_id.hex() == trace_id and span.parent_span_id.hex() == parent_id]
    assert server.name == "POST /v1/completions"
    calls = [span for span in spans if span.parent_span_id == server.span_id]
    assert len(calls) >= 2
    assert {span.name for span in calls} == {"tensorflow.serving.PredictionService/Predict"}
    assert all(server.start_time_unix_nano <= span.start_time_unix_nano for span in calls)
