"""Requests that wait together for a server that is unavailable."""

from __future__ import annotations

import threading

import pytest

import ostinato
from ostinato import Client, NotReady, OstinatoError, WaitForReady
from tests.unit.client.scripted_responses import COMPLETION, answer_bytes, answer_json, hang_up, models, refusal
from tests.unit.client.scripted_server import PATIENCE_S, ScriptedServer

ANSWER = answer_json(COMPLETION)
UNAVAILABLE = [refusal(429, "full"), refusal(503, "draining"), answer_bytes(b"<html>", "text/html", 502), hang_up]


def test_waits_do_not_count_against_the_retries(server: ScriptedServer, waits: list[float]) -> None:
    """A full queue, a shutdown, a proxy without a server and a lost connection; the waits grow up to a limit."""
    server.script = [*UNAVAILABLE, *UNAVAILABLE, ANSWER]
    waiting = WaitForReady(60)
    with Client(server.url, max_retries=0, wait_for_ready=waiting) as client:
        assert client.generate("Once", model="tiny").text == " upon a time"
    assert server.bodies == [{"model": "tiny", "prompt": "Once"}] * 9
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0]
    assert (waiting.last_error, waiting.num_responses) == (None, 1)


@pytest.mark.usefixtures("waits")
def test_a_failure_of_the_request_itself_counts(server: ScriptedServer) -> None:
    """It is raised after `max_retries`, and the waits between its attempts are not counted."""
    server.script = [refusal(500, "bug"), refusal(503, "draining"), refusal(500, "bug"), refusal(400, "no")]
    with Client(server.url, max_retries=1, wait_for_ready=WaitForReady(60)) as client:
        with pytest.raises(ostinato.InternalError):
            client.models()
        with pytest.raises(ostinato.BadRequest):
            client.models()


def test_the_server_may_ask_for_more_than_a_minute(server: ScriptedServer, waits: list[float]) -> None:
    """The wait ends when the timeout does."""
    server.script = [refusal(429, "full", headers={"Retry-After": wait}) for wait in ("90", "9000")] + [models("tiny")]
    with Client(server.url, wait_for_ready=WaitForReady(600)) as client:
        client.models()
    assert waits[0] == 90
    assert 599 < waits[1] <= 600


def test_the_timeout_ends_the_wait_when_no_request_gets_a_response(server: ScriptedServer) -> None:
    """The error names the timeout and the last failure; after any response, an error too, the time starts anew."""
    away = refusal(503, "draining", headers={"Retry-After-Ms": "10"})
    server.script = [away] * 5000
    waiting = WaitForReady(0.5)
    with Client(server.url, wait_for_ready=waiting) as client:
        with pytest.raises(NotReady, match=r"^no request was answered for 0\.5 s; .*: draining \(HTTP 503\)") as caught:
            client.models()
        assert isinstance(caught.value.__cause__, ostinato.ServiceUnavailable)
        assert waiting.last_error is caught.value.__cause__
        server.script = [away, refusal(404, "no"), away, models("tiny")]
        with pytest.raises(NotReady):
            client.models()
        with pytest.raises(ostinato.NotFound):
            client.models()
        client.models()
    assert server.script == []


@pytest.mark.usefixtures("waits")
def test_who_breaks_its_connections_while_others_get_responses_fails(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often as `max_retries` allows after the first, which says nothing yet."""
    waiting = WaitForReady(60)
    record_error = waiting.record_error

    def record_both(error: OstinatoError) -> float:
        left_s = record_error(error)
        waiting.record_response()  # of another request
        return left_s

    monkeypatch.setattr(waiting, "record_error", record_both)
    server.script = [hang_up] * 20
    with Client(server.url, max_retries=0, wait_for_ready=waiting) as client, pytest.raises(ostinato.ConnectionFailed):
        client.models()
    assert len(server.requests) == 2


def test_clients_share_what_they_wait_for(server: ScriptedServer) -> None:
    """A response to one of them keeps the other waiting."""
    waiting, woken = WaitForReady(60), threading.Event()
    first = Client(server.url, wait_for_ready=waiting)
    server.script = [refusal(503, "draining", headers={"Retry-After": "60"}), models("tiny")]

    def wait() -> None:
        with pytest.raises(ostinato.ClientClosed):
            first.models()
        woken.set()

    threading.Thread(target=wait, daemon=True).start()
    while waiting.last_error is None:
        threading.Event().wait(0.01)
    with Client(server.url, wait_for_ready=waiting) as other:
        other.models()
    assert (waiting.last_error, waiting.num_responses) == (None, 1)
    first.close()
    assert woken.wait(PATIENCE_S)


@pytest.mark.usefixtures("waits")
def test_a_subclass_may_wait_after_other_errors(server: ScriptedServer) -> None:
    """Such as a model that is to be published soon."""

    class WaitForModels(WaitForReady):
        def is_unavailable(self, error: OstinatoError) -> bool:
            return super().is_unavailable(error) or isinstance(error, ostinato.ModelNotFound)

    server.script = [refusal(404, "no", code="model_not_found"), hang_up, ANSWER]
    with Client(server.url, max_retries=0, wait_for_ready=WaitForModels(60)) as client:
        assert client.generate(model="tiny").text == " upon a time"


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_a_timeout_that_is_none_is_refused(timeout_s: float) -> None:
    """With its value."""
    with pytest.raises(ostinato.InvalidArgument, match="timeout_s is"):
        WaitForReady(timeout_s)
