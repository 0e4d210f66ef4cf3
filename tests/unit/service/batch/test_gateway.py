"""Requests by HTTP against a scripted server: what is sent, sent again, given up."""

import http.client
import json
from concurrent.futures import ThreadPoolExecutor

import certifi
import pytest
import requests

from service.batch.errors import Stopped, UsageError
from service.batch.gateway import MAX_LOST, Address, Failure, Gateway
from service.batch.requests_file import Request
from service.batch.retries import MAX_ATTEMPTS
from tests.unit.client.scripted_responses import answer_bytes, answer_json, hang_up, refusal, silence

REQUEST = Request("a", "/v1/completions", b'{"seed":1}')
STATUS = {"sequences": {"accepted": 3, "max": 10}, "models": [{}], "uptime_s": 1000.0}


@pytest.fixture
def gateway(server, patience):
    """A gateway at the scripted server."""
    return Gateway(Address(server.url, "secret", 60.0), patience)


def test_a_request_is_sent_with_its_bytes_and_the_key(server, gateway, monkeypatch, tmp_path):
    """At the line's own address; an entry in ~/.netrc does not go before the key."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.script = [answer_json({"x": 1}, headers={"x-request-id": "req-1"})]
    reply = gateway.ask(REQUEST)
    assert (reply.status, reply.parsed, reply.headers["X-Request-Id"]) == (200, {"x": 1}, "req-1")
    (received,) = server.requests
    assert (received.method, received.path, received.body) == ("POST", "/v1/completions", {"seed": 1})
    assert received.headers["Authorization"] == "Bearer secret"
    assert received.headers["Content-Length"] == str(len(REQUEST.body))


def test_requests_of_a_thread_share_a_connection(server, gateway):
    """Bodies do not get mixed up on it."""
    server.script = [answer_json({})] * 3
    for number in range(3):
        gateway.ask(Request("a", "/tokenize", b'{"n":%d}' % number))
    assert server.bodies == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert len({request.client_port for request in server.requests}) == 1


def test_the_address_may_end_as_openais_does(server, patience):
    """With or without /v1 and a slash."""
    server.script = [answer_json({})]
    Gateway(Address(f"{server.url}/v1/", None, 60.0), patience).ask(REQUEST)
    assert server.requests[0].path == "/v1/completions"
    assert "Authorization" not in server.requests[0].headers


def test_a_busy_gateway_is_waited_for_as_it_asks(server, gateway, patience):
    """429, 503, 502 and a lost connection, more often than a request at fault is sent."""
    away = [refusal(429, "full", headers={"retry-after-ms": "2000"}), refusal(503, "drains"), hang_up]
    server.script = [*away, answer_bytes(b"<html>", "text/html", 502), *away, answer_json({})]
    assert gateway.ask(REQUEST).status == 200
    assert len(patience.waits) == 7
    assert 2 <= patience.waits[0][0] <= 2.5
    assert patience.waits[0][1] == "429: full"
    assert len(server.requests) == 8


@pytest.mark.parametrize("status", [500, 504])
def test_an_error_that_persists_is_the_answer(server, gateway, status):
    """After a few attempts."""
    server.script = [refusal(status, "broken")] * 10
    assert gateway.ask(REQUEST).status == status
    assert len(server.requests) == MAX_ATTEMPTS


def test_what_should_not_be_sent_again_is_not(server, gateway):
    """The gateway says so of a deadline that was over."""
    server.script = [refusal(504, "deadline", headers={"x-should-retry": "false"})]
    assert gateway.ask(REQUEST).status == 504
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_who_is_not_let_in_stops_the_run(server, gateway, status):
    """One line, without the key."""
    server.script = [refusal(status, "wrong key", code="invalid_api_key")] * 2
    for ask in (lambda: gateway.ask(REQUEST), gateway.num_free):
        with pytest.raises(Stopped, match=f"lets nobody in with the key .*: {status} invalid_api_key: wrong key") as e:
            ask()
        assert "secret" not in str(e.value)


def test_an_answer_that_does_not_come_is_not_asked_for_twice(server, patience):
    """It becomes the line's error, which names the bound."""
    server.script = [silence]
    with pytest.raises(Failure, match=r"no answer within --timeout of 0\.2 s") as caught:
        Gateway(Address(server.url, None, 0.2), patience).ask(REQUEST)
    assert caught.value.code == "timeout"
    assert len(server.requests) == 1


def test_a_line_that_breaks_its_connections_is_given_up_while_others_are_answered(server, gateway, patience):
    """When nobody is answered, it is the gateway that is away."""
    server.script = [hang_up] * 20
    wait = patience.wait
    patience.wait = lambda *arguments: (wait(*arguments), patience.answered())
    with pytest.raises(Failure, match=f"{MAX_LOST} connections broke") as caught:
        gateway.ask(REQUEST)
    assert caught.value.code == "connection_lost"
    # The first has nothing before it that was answered meanwhile.
    assert len(server.requests) == MAX_LOST + 1


def test_connections_that_break_while_nobody_is_answered_are_no_lines_fault(server, gateway, patience):
    """Others were answered once in between, and then the gateway was away."""
    server.script = [*[hang_up] * (MAX_LOST + 3), answer_json({})]
    wait = patience.wait
    patience.wait = lambda *arguments: (wait(*arguments), len(patience.waits) == 1 and patience.answered())
    assert gateway.ask(REQUEST).status == 200


def test_threads_do_not_mix_up_their_bodies(server, gateway):
    """Each body is sent once, by whichever thread."""
    bodies = [b'{"n":%d}' % number for number in range(400)]
    server.script = [answer_json({})] * len(bodies)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda body: gateway.ask(Request("a", "/tokenize", body)), bodies))
    assert sorted(body["n"] for body in server.bodies) == list(range(len(bodies)))


def test_certificates_of_the_environment_are_used(server, patience, monkeypatch):
    """They are looked up once, and given to each call."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    gateway, given = Gateway(Address(server.url, None, 60.0), patience), []
    send = requests.Session.send
    monkeypatch.setattr(requests.Session, "send", lambda *a, **how: given.append(how["verify"]) or send(*a, **how))
    server.script = [answer_json({})]
    gateway.ask(REQUEST)
    assert given == [certifi.where()]


def test_success_without_json_is_an_error(server, gateway):
    """A proxy's page, after a few attempts."""
    server.script = [answer_bytes(b"<html>hello", "text/html")] * MAX_ATTEMPTS
    with pytest.raises(Failure, match="must be JSON, got status 200 and '<html>hello'") as caught:
        gateway.ask(REQUEST)
    assert caught.value.code == "not_json"


@pytest.mark.parametrize("early", [{"uptime_s": 3.0}, {"models": []}], ids=["young", "no models"])
def test_a_model_that_may_yet_come_is_waited_for(server, gateway, patience, early):
    """After a restart the gateway answers before it has found its models."""
    missing = refusal(404, "not served", code="model_not_found")
    server.script = [missing, answer_json({**STATUS, **early}), missing, answer_json(STATUS)]
    assert gateway.ask(REQUEST).status == 404
    assert [trouble for _, trouble in patience.waits] == ["404 model_not_found: not served"]


def test_the_room_of_the_gateway_is_what_it_has_left(server, gateway, patience):
    """It is waited for while it is away."""
    server.script = [refusal(503, "drains"), hang_up, answer_json(STATUS)]
    assert gateway.num_free() == 7
    assert len(patience.waits) == 2
    server.script = [answer_json({**STATUS, "sequences": {"accepted": 10, "max": 10}})]
    assert gateway.num_free() == 1


@pytest.mark.parametrize(
    "answer",
    [
        answer_bytes(b"<html>", "text/html"),
        answer_json([]),
        answer_json({"sequences": 1}),
        refusal(404, "nothing there"),
    ],
)
def test_what_is_no_gateway_stops_the_run_at_once(server, gateway, answer):
    """A wrong address is told with what came."""
    server.script = [answer]
    with pytest.raises(Stopped, match="is not an Ostinato gateway's: got status"):
        gateway.num_free()


@pytest.mark.parametrize("url", ["example", "ftp://example", "http://", "http://example:port"])
def test_an_address_that_is_none_is_refused(url, patience):
    """Before anything is sent."""
    with pytest.raises(UsageError, match="--base-url must be like http://host:port"):
        Gateway(Address(url, None, 60.0), patience)


def test_a_proxy_of_the_environment_is_used(server, patience, monkeypatch):
    """The request goes to it, with the whole address in its first line."""
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("NO_PROXY", "")
    server.script = [answer_json({})]
    Gateway(Address("http://gateway.invalid:8000", None, 60.0), patience).ask(REQUEST)
    assert server.requests[0].path == "http://gateway.invalid:8000/v1/completions"


def test_a_body_that_breaks_off_is_asked_for_again(server, gateway, patience):
    """Half an answer is none."""

    def half(handler):
        handler.start(200, {"Content-Length": "100"})
        handler.wfile.write(b'{"x":')
        handler.hang_up()

    server.script = [half, answer_json({})]
    assert gateway.ask(REQUEST).parsed == {}
    assert len(patience.waits) == 1
    assert http.client.IncompleteRead.__name__ in patience.waits[0][1]
    assert json.dumps(server.bodies) == json.dumps([{"seed": 1}] * 2)
