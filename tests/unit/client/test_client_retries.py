"""Failed requests: which are retried, after which wait, and what is raised in the end; `WaitForReady`."""

import contextlib
import errno
import http.client
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

import sostenuto
from sostenuto import Client, ConnectionFailed, NotReady, Timeout, WaitForReady
from sostenuto._retries import MAX_WAIT_S, MIN_PATIENT_WAIT_S, asked_wait_s, is_retryable, wait_s
from sostenuto._settings import LONGEST_S
from tests.unit.client.scripted_responses import COMPLETION, answer_bytes, answer_json, hang_up, linger, models, refusal
from tests.unit.client.scripted_server import PATIENCE_S
from tests.waiting import until


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 422, 429, 499, 500, 502, 503, 504, 599])
def test_transient_statuses_are_retryable(status):
    """Timeouts, conflicts, full queues and server errors may be over at the next attempt."""
    assert is_retryable(status, {}) == (status in {408, 409, 429} or status >= 500)


def test_x_should_retry_overrides_the_status():
    assert is_retryable(400, {"x-should-retry": "true"})
    assert not is_retryable(503, {"x-should-retry": "False"})
    assert is_retryable(503, {"x-should-retry": "maybe"})


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "1"}, 1.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        *(({"retry-after": text}, LONGEST_S) for text in ("1e300", "Fri, 31 Dec 9999 23:59:59 GMT")),
        ({"retry-after-ms": "1e300"}, LONGEST_S),
        ({"retry-after": f"Thu, 01 Jan 1970 00:00:00 +{'9' * 20}"}, None),
        *(
            ({"retry-after": text, "retry-after-ms": text}, None)
            for text in ("", "soon", "-1", "nan", "inf", "Thu, 99 Foo 1970")
        ),
    ],
)
def test_retry_after_headers_are_read_in_seconds_and_ignored_if_invalid(headers, seconds):
    assert asked_wait_s(headers) == seconds


@pytest.mark.parametrize("zone", ["GMT", "-0000"])
def test_retry_after_may_be_a_date(zone):
    text = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=30), usegmt=True).replace("GMT", zone)
    assert asked_wait_s({"retry-after": text}) == pytest.approx(30, abs=2)


def test_waits_double_up_to_a_maximum():
    assert [wait_s(attempt, None, 0.0) for attempt in range(6)] == [0.5, 1.0, 2.0, 4.0, MAX_WAIT_S, MAX_WAIT_S]
    assert wait_s(9999, None, 1.0) == 6.0


def test_jitter_shortens_the_clients_waits_and_lengthens_retry_after():
    """Clients are spread out, and none retries before the time that the server named."""
    assert wait_s(1, None, 1.0) == 0.75
    assert wait_s(1, 4.0, 0.0) == 4.0
    assert wait_s(1, 4.0, 1.0) == 5.0


ANSWER = answer_json(COMPLETION)


def break_off(handler):
    """Announce a body, send a part of it, and close the connection."""
    handler.start(200, {"Content-Type": "application/json", "Content-Length": "100"})
    handler.wfile.write(b'{"id"')
    handler.hang_up()


def fall_silent(handler):
    """Announce a body, and send nothing until the read timeout."""
    handler.start(200, {"Content-Type": "application/json", "Content-Length": "100"})
    linger(handler)


@pytest.mark.parametrize("failing", [refusal(429, "full"), refusal(500, "oops"), hang_up, break_off])
def test_transient_failures_are_retried(client, server, waits, failing):
    server.script = [failing, failing, ANSWER]
    assert client.generate("Once", model="tiny").text == " upon a time"
    assert server.bodies == [{"model": "tiny", "prompt": "Once"}] * 3
    assert waits == [0.5, 1.0]


def answering(reply):
    """Listen, answer the first bytes of each connection with these, and record them; None: answer nothing."""
    listener = socket.create_server(("127.0.0.1", 0))
    received = []

    def answer():
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                connection, _ = listener.accept()
                with connection:
                    received.append(connection.recv(1 << 16))
                    if reply is None:
                        connection.recv(1)  # until the client leaves
                    else:
                        connection.sendall(reply)

    threading.Thread(target=answer, daemon=True).start()
    return listener, received


HTTP_400 = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
NGINX = b"<title>400 The plain HTTP request was sent to HTTPS port</title>"


@pytest.mark.parametrize(
    ("scheme", "reply", "error", "words"),
    [
        ("https", HTTP_400, sostenuto.WrongScheme, "does not speak TLS: is it http://?"),
        ("https", None, Timeout, "did not complete a TLS handshake within 0.5 s: is it http://?"),
        ("http", b"\x15\x03\x03\x00\x02\x02\x50", sostenuto.WrongScheme, "speaks TLS: is it https://?"),
        ("http", HTTP_400 + NGINX, sostenuto.WrongScheme, "speaks TLS: is it https://?"),
        ("http", b"", ConnectionFailed, "is it https://?"),
    ],
    ids=["plain", "silent", "alert", "nginx", "closed"],
)
def test_a_wrong_scheme_is_named(waits, scheme, reply, error, words):
    listener, received = answering(reply)
    with listener, Client(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}", timeout=(0.5, 300)) as client:
        with pytest.raises(error) as raised:
            client.models()
        assert words in str(raised.value)
        assert len(received) == len(waits) + 1 == (3 if error is ConnectionFailed else 1)
        listener.shutdown(socket.SHUT_RDWR)


def test_permanent_failures_are_not_retried(client, server, waits):
    server.script = [refusal(400, "no"), refusal(503, "no", headers={"X-Should-Retry": "false"})]
    for error in (sostenuto.BadRequest, sostenuto.ServiceUnavailable):
        with pytest.raises(error):
            client.models()
    assert (len(server.requests), waits) == (2, [])


def test_a_refused_connection_names_the_url(server, waits):
    url = server.url
    server.__exit__(None, None, None)
    with Client(url) as client, pytest.raises(ConnectionFailed) as caught:
        client.models()
    assert str(caught.value) == (
        f"no response from {url}/v1/models (Connection refused): check base_url, and that the server is running"
    )
    assert len(waits) == 2


def test_a_lost_host_is_a_failed_connection_and_retried(client, server, waits, monkeypatch):
    """TCP keepalive raises the class of a read timeout, which would not be retried."""

    def lose_host(_connection):
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    monkeypatch.setattr(http.client.HTTPConnection, "getresponse", lose_host)
    server.script = [linger] * 3
    with pytest.raises(ConnectionFailed, match="its host no longer responds"):
        client.generate("Once", model="tiny")
    assert waits == [0.5, 1.0]


@pytest.mark.parametrize("silent", [linger, fall_silent], ids=["before the headers", "before the body"])
def test_a_read_timeout_is_not_retried(server, silent, waits):
    """The server may still be working on the first request: a second would only add load."""
    server.script = [silent]
    with Client(server.url, timeout=(5, 0.3)) as client, pytest.raises(Timeout, match=r"sent nothing for 0\.3 s"):
        client.generate("Once", model="tiny")
    assert (len(server.requests), waits) == (1, [])


UNAVAILABLE = [refusal(429, "full"), refusal(503, "draining"), answer_bytes(b"<html>", "text/html", 502), hang_up]


def test_waits_do_not_count_against_the_retries(server, waits):
    server.script = [*UNAVAILABLE, *UNAVAILABLE, ANSWER]
    waiting = WaitForReady(60)
    with Client(server.url, max_retries=0, wait_for_ready=waiting) as client:
        assert client.generate("Once", model="tiny").text == " upon a time"
    assert server.bodies == [{"model": "tiny", "prompt": "Once"}] * 9
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0]
    assert (waiting.last_error, waiting.num_responses) == (None, 1)


@pytest.mark.usefixtures("waits")
def test_an_internal_error_counts_against_the_retries(server):
    server.script = [refusal(500, "bug"), refusal(503, "draining"), refusal(500, "bug"), refusal(400, "no")]
    with Client(server.url, max_retries=1, wait_for_ready=WaitForReady(60)) as client:
        with pytest.raises(sostenuto.InternalError):
            client.models()
        with pytest.raises(sostenuto.BadRequest):
            client.models()


def test_a_quota_that_is_reached_is_an_error_at_once(server, waits):
    """It says nothing about the server, and no wait for the server ends it."""
    final = {"x-should-retry": "false"}
    server.script = [refusal(429, "5 jobs are unfinished", code="quota_reached", headers=final), models("tiny")]
    waiting = WaitForReady(60)
    with Client(server.url, wait_for_ready=waiting) as client:
        with pytest.raises(sostenuto.QuotaReached):
            client.models()
        client.models()
    assert (waits, waiting.last_error, waiting.num_responses) == ([], None, 2)


def test_retry_after_may_exceed_a_minute_up_to_the_timeout(server, waits):
    server.script = [refusal(429, "full", headers={"Retry-After": wait}) for wait in ("90", "9000")] + [models("tiny")]
    with Client(server.url, wait_for_ready=WaitForReady(600)) as client:
        client.models()
    assert waits[0] == 90
    assert 599 < waits[1] <= 600


def test_a_wait_for_a_server_is_never_zero(server, waits):
    """A proxy may ask for that, or for a time that has passed."""
    server.script = [*[refusal(503, "away", headers={"Retry-After": "0"})] * 3, models("tiny")]
    with Client(server.url, wait_for_ready=WaitForReady(600)) as client:
        client.models()
    assert waits == [MIN_PATIENT_WAIT_S] * 3


def test_the_timeout_ends_the_wait_when_no_request_gets_a_response(server):
    away = refusal(503, "draining", headers={"Retry-After-Ms": "10"})
    server.script = [away] * 5000
    waiting = WaitForReady(0.5)
    with Client(server.url, wait_for_ready=waiting) as client:
        told = r"^the server was unavailable for 0\.5 s; .*: draining \(HTTP 503\)"
        with pytest.raises(NotReady, match=told) as caught:
            client.models()
        assert isinstance(caught.value.__cause__, sostenuto.ServiceUnavailable)
        assert waiting.last_error is caught.value.__cause__
        # A later request waits as long: meanwhile the server may have been available.
        server.script = [away, refusal(404, "no"), away, models("tiny")]
        with pytest.raises(sostenuto.NotFound):
            client.models()
        client.models()
    assert server.script == []


def test_clients_can_share_one_wait_for_ready(server):
    waiting = WaitForReady(60)
    first = Client(server.url, wait_for_ready=waiting)
    server.script = [refusal(503, "draining", headers={"Retry-After": "60"}), models("tiny")]
    asking = ThreadPoolExecutor(1).submit(first.models)
    until(lambda: waiting.last_error)
    with Client(server.url, wait_for_ready=waiting) as other:
        other.models()
    assert (waiting.last_error, waiting.num_responses) == (None, 1)
    first.close()
    with pytest.raises(sostenuto.ClientClosed):
        asking.result(PATIENCE_S)


@pytest.mark.usefixtures("waits")
def test_a_subclass_can_wait_on_further_errors(server):

    class WaitForModels(WaitForReady):
        def is_unavailable(self, error):
            return super().is_unavailable(error) or isinstance(error, sostenuto.ModelNotFound)

    server.script = [refusal(404, "no", code="model_not_found"), hang_up, ANSWER]
    with Client(server.url, max_retries=0, wait_for_ready=WaitForModels(60)) as client:
        assert client.generate(model="tiny").text == " upon a time"


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_a_timeout_that_is_not_positive_is_rejected(timeout_s):
    with pytest.raises(sostenuto.InvalidArgument, match="timeout_s is"):
        WaitForReady(timeout_s)
