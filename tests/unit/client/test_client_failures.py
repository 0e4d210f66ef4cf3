"""Failing requests: which are sent again, after how long, and what is raised in the end."""

from __future__ import annotations

import threading
from time import monotonic

import pytest

import ostinato
from ostinato import Client, ConnectionFailed, Timeout
from tests.unit.client.scripted_responses import COMPLETION, answer_json, hang_up, models, refusal, silence
from tests.unit.client.scripted_server import PATIENCE_S, Answer, Handler, ScriptedServer

ANSWER = answer_json(COMPLETION)


def break_off(handler: Handler) -> None:
    """Announce a body, send a part of it, and close the connection."""
    handler.start(200, {"Content-Type": "application/json", "Content-Length": "100"})
    handler.wfile.write(b'{"id"')
    handler.hang_up()


def fall_silent(handler: Handler) -> None:
    """Announce a body, and do not send it."""
    handler.start(200, {"Content-Type": "application/json", "Content-Length": "100"})
    silence(handler)


@pytest.mark.parametrize("failing", [refusal(429, "full"), refusal(500, "oops"), hang_up, break_off])
def test_what_may_pass_is_tried_again(
    client: Client, server: ScriptedServer, waits: list[float], failing: Answer
) -> None:
    """A full queue, a server error and a lost connection are repeated with growing waits, body and all."""
    server.script = [failing, failing, ANSWER]
    assert client.generate("Once", model="tiny").text == " upon a time"
    assert server.bodies == [{"model": "tiny", "prompt": "Once"}] * 3
    assert waits == [0.5, 1.0]


def test_after_the_last_attempt_the_error_is_raised(client: Client, server: ScriptedServer, waits: list[float]) -> None:
    """Two repetitions are the default, and the third failure is the caller's."""
    server.script = [refusal(500, "oops")] * 3
    with pytest.raises(ostinato.ServerError):
        client.models()
    assert (len(server.requests), len(waits)) == (3, 2)


def test_what_stays_wrong_is_not_tried_again(client: Client, server: ScriptedServer, waits: list[float]) -> None:
    """A wrong request is refused once, and so is whatever the server says not to repeat."""
    server.script = [refusal(400, "no"), refusal(503, "no", headers={"X-Should-Retry": "false"})]
    for error in (ostinato.BadRequest, ostinato.ServiceUnavailable):
        with pytest.raises(error):
            client.models()
    assert (len(server.requests), waits) == (2, [])


def test_the_server_says_how_long_to_wait(client: Client, server: ScriptedServer, waits: list[float]) -> None:
    """`Retry-After` and `retry-after-ms` take the place of the client's own waits."""
    server.script = [
        refusal(429, "full", headers={"Retry-After": "7"}),
        refusal(503, "full", headers={"Retry-After-Ms": "40"}),
        models("tiny"),
    ]
    client.models()
    assert waits == [7.0, 0.04]


def test_a_long_wait_is_left_to_the_caller(client: Client, server: ScriptedServer, waits: list[float]) -> None:
    """Who is asked to wait for an hour gets the error at once, and the hour with it."""
    server.script = [refusal(429, "full", headers={"Retry-After": "3600"})]
    with pytest.raises(ostinato.TooManyRequests) as caught:
        client.models()
    assert (caught.value.retry_after_s, waits) == (3600.0, [])


def test_closing_the_client_ends_a_wait_before_another_attempt(server: ScriptedServer) -> None:
    """At once, and nothing more is sent."""
    refused = threading.Event()
    client = Client(server.url)

    def refuse(handler: Handler) -> None:
        refusal(503, "no", headers={"Retry-After": "50"})(handler)
        refused.set()

    def close() -> None:
        assert refused.wait(PATIENCE_S)
        client.close()

    server.script = [refuse]
    threading.Thread(target=close, daemon=True).start()
    began_at_s = monotonic()
    with pytest.raises(ostinato.ClientClosed):
        client.models()
    assert monotonic() - began_at_s < 25
    assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_named(server: ScriptedServer, waits: list[float]) -> None:
    """The message has the address, the reason in plain words and what to do; it was tried three times."""
    url = server.url
    server.__exit__(None, None, None)
    with Client(url) as client, pytest.raises(ConnectionFailed) as caught:
        client.models()
    assert str(caught.value) == (
        f"no response from {url}/v1/models (Connection refused): check base_url and that the server runs"
    )
    assert len(waits) == 2


@pytest.mark.parametrize("silent", [silence, fall_silent], ids=["before the headers", "before the body"])
def test_a_read_timeout_is_not_repeated(server: ScriptedServer, silent: Answer, waits: list[float]) -> None:
    """The server may still be at work on the first request: a second would only add to its load."""
    server.script = [silent]
    with Client(server.url, timeout=(5, 0.1)) as client, pytest.raises(Timeout, match=r"sent nothing for 0\.1 s"):
        client.generate("Once", model="tiny")
    assert (len(server.requests), waits) == (1, [])
