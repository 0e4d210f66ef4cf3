"""`WaitForReady`: requests that wait together while the server is unavailable."""

from concurrent.futures import ThreadPoolExecutor

import pytest

import sostenuto
from sostenuto import Client, NotReady, WaitForReady
from tests.unit.client.scripted_responses import COMPLETION, answer_bytes, answer_json, hang_up, models, refusal
from tests.unit.client.scripted_server import PATIENCE_S
from tests.waiting import until

ANSWER = answer_json(COMPLETION)
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


def test_retry_after_may_exceed_a_minute_up_to_the_timeout(server, waits):
    server.script = [refusal(429, "full", headers={"Retry-After": wait}) for wait in ("90", "9000")] + [models("tiny")]
    with Client(server.url, wait_for_ready=WaitForReady(600)) as client:
        client.models()
    assert waits[0] == 90
    assert 599 < waits[1] <= 600


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
        server.script = [away, refusal(404, "no"), away, models("tiny")]
        with pytest.raises(NotReady):
            client.models()
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
