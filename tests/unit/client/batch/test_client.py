"""The batch client against a scripted server: requests, retries, and errors of a line or of the run."""

import json

import certifi
import pytest
import requests

from sostenuto import RawResponse
from sostenuto._batch.client import CONNECT_TIMEOUT_S, BatchClient
from sostenuto._batch.errors import LineError, Stopped
from sostenuto._batch.requests_file import BatchRequest
from sostenuto._cli.batch import MAX_RETRIES
from sostenuto._settings import resolve
from tests.unit.client.scripted_responses import GATEWAY, answer_bytes, answer_json, hang_up, linger, refusal

REQUEST = BatchRequest("a", "/v1/completions", b'{"seed":1}')


def connect(url, api_key="", timeout_s=60.0):
    """Make a client for the gateway at a URL."""
    return BatchClient(resolve(url, api_key, (CONNECT_TIMEOUT_S, timeout_s), MAX_RETRIES), give_up_after_s=600.0)


@pytest.fixture
def client(server, waits):  # noqa: ARG001 - no test should wait
    """A client for the scripted server, with an API key."""
    return connect(server.url, "secret")


def test_a_request_has_the_bytes_and_url_of_its_line_and_the_key(server, client):
    server.script = [answer_json({"x": 1}, headers={"x-request-id": "req-1"})]
    assert client.send(REQUEST) == RawResponse(200, "req-1", b'{"x": 1}')
    (received,) = server.requests
    assert (received.method, received.path, received.body) == ("POST", "/v1/completions", {"seed": 1})
    assert received.headers["Authorization"] == "Bearer secret"
    assert received.headers["Content-Length"] == str(len(REQUEST.body))


def test_an_unavailable_gateway_is_retried_after_its_retry_after(server, client, waits):
    away = [refusal(429, "full", headers={"retry-after-ms": "2000"}), refusal(503, "drains"), hang_up]
    server.script = [*away, answer_bytes(b"<html>", "text/html", 502), *away, answer_json({})]
    troubles = []
    waits.on_wait = lambda: troubles.append(client.trouble)
    assert client.send(REQUEST).status == 200
    assert len(waits) == 7
    assert 2 <= waits[0] <= 2.5
    assert troubles[0] == "full (HTTP 429): try again in 2 s"
    assert client.trouble is None
    assert len(server.requests) == 8


@pytest.mark.parametrize(
    ("status", "error", "num_requests"),
    [
        (400, {}, 1),
        (403, {"param": "state", "code": "state_foreign"}, 1),
        (408, {}, MAX_RETRIES + 1),
        (500, {}, MAX_RETRIES + 1),
    ],
)
def test_the_response_to_a_failed_request_is_returned_after_its_retries(server, client, status, error, num_requests):
    server.script = [refusal(status, "no", **error)] * 10
    response = client.send(REQUEST)
    assert (response.status, json.loads(response.content)["error"]["message"]) == (status, "no")
    assert len(server.requests) == num_requests


@pytest.mark.parametrize("status", [429, 502, 503])
def test_an_unavailable_gateway_is_retried_despite_x_should_retry(server, client, status):
    """A retry is safe: it generates the sequence again, with the same output."""
    server.script = [refusal(status, "no", headers={"X-Should-Retry": "false"})] * 10 + [answer_json({})]
    assert client.send(REQUEST).status == 200


def test_closing_the_client_ends_its_waits(server, client, waits):
    server.script = [refusal(503, "no")]
    waits.on_wait = client.close
    with pytest.raises(Stopped, match="closed"):
        client.send(REQUEST)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_api_key_stops_the_run(server, client, status):
    """Every line would get the same error; its message does not show the key."""
    server.script = [refusal(status, "wrong key", code="invalid_api_key")] * 2
    for ask in (lambda: client.send(REQUEST), client.num_free):
        with pytest.raises(Stopped, match=rf"wrong key \(HTTP {status}\): .* (api_key|API key)") as e:
            ask()
        assert "secret" not in str(e.value)


def test_a_request_that_timed_out_is_not_retried(server):
    server.script = [linger]
    with pytest.raises(LineError, match=r"no response within --timeout of 0\.3 s") as caught:
        connect(server.url, timeout_s=0.3).send(REQUEST)
    assert (caught.value.code, caught.value.custom_id) == ("timeout", "a")
    assert len(server.requests) == 1


def test_a_line_that_keeps_losing_connections_fails_if_others_succeed(server, client, waits):
    """If no line gets a response, it is the gateway that is unavailable."""
    server.script = [hang_up] * 20
    waits.on_wait = client._wait.record_response
    with pytest.raises(LineError, match="its connection was lost repeatedly") as caught:
        client.send(REQUEST)
    assert (caught.value.code, caught.value.custom_id) == ("connection_lost", "a")
    # docs/batch.md says five.
    assert len(server.requests) == 5


def test_the_ca_bundle_of_the_environment_is_used(server, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    client, given = connect(server.url), []
    send = requests.Session.send
    monkeypatch.setattr(requests.Session, "send", lambda *a, **how: given.append(how["verify"]) or send(*a, **how))
    server.script = [answer_json({})]
    client.send(REQUEST)
    assert given == [certifi.where()]


def test_a_200_without_json_is_an_error_of_the_line(server, client):
    server.script = [answer_bytes(b"<html>hello", "text/html")] * 20
    with pytest.raises(LineError, match="returned 200 with text/html, not JSON") as caught:
        client.send(REQUEST)
    assert caught.value.code == "not_json"
    assert len(server.requests) == MAX_RETRIES + 1


@pytest.mark.parametrize("early", [{"uptime_s": 3.0}, {"models": []}], ids=["young", "no models"])
def test_a_missing_model_is_retried_while_the_gateway_starts(server, client, waits, early):
    missing = refusal(404, "not served", code="model_not_found")
    server.script = [missing, answer_json({**GATEWAY, **early}), missing, answer_json(GATEWAY)]
    troubles = []
    waits.on_wait = lambda: troubles.append(client.trouble)
    assert client.send(REQUEST).status == 404
    assert len(troubles) == 1
    assert troubles[0].startswith("not served (HTTP 404)")


def test_num_free_is_the_limit_minus_the_admitted_sequences(server, client, waits):
    server.script = [refusal(503, "drains"), hang_up, answer_json(GATEWAY)]
    assert client.num_free() == 7
    assert len(waits) == 2
    server.script = [answer_json({**GATEWAY, "sequences": {"accepted": 10, "max": 10}})]
    assert client.num_free() == 1


@pytest.mark.parametrize(
    "answer",
    [
        answer_bytes(b"<html>", "text/html"),
        answer_json([]),
        answer_json({"sequences": 1}),
        refusal(404, "nothing there"),
    ],
)
def test_a_server_that_is_not_a_gateway_stops_the_run(server, client, answer):
    server.script = [answer]
    with pytest.raises(Stopped, match=r"check (that )?base_url"):
        client.num_free()
