"""`stream(resume=True)`: which request resumes an interrupted stream, and when none does."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import sostenuto
from sostenuto import Client, Usage, _retries
from sostenuto._resuming import STATE_INTERVAL
from tests.unit.client.scripted_responses import (
    DONE,
    as_event,
    chunk,
    cut,
    hang_up,
    linger,
    marked,
    models,
    refusal,
    stream,
    usage_chunk,
)
from tests.unit.client.scripted_server import PATIENCE_S
from tests.waiting import until

REQUEST = {"model": "tiny", "max_tokens": 10, "temperature": 0.5, "stop": "!"}


def test_an_interrupted_stream_resumes_from_its_last_state(client, server, waits):
    server.script = [
        cut(chunk("a"), marked("b", 2, "s1"), chunk("c"), marked("d", 4, "s2"), chunk("ef")),
        stream([chunk("e"), chunk("fg"), chunk("h", "length"), usage_chunk(), DONE]),
    ]
    own = {"min_tokens": 5, "seed": 3, "echo": False, "labels": {"style": "elvish"}}
    with client.stream("Once", **REQUEST, **own, resume=True) as pieces:
        assert list(pieces) == ["a", "b", "c", "d", "ef", "g", "h"]
    options = {"include_usage": True, "state_interval": STATE_INTERVAL}
    first, second = server.bodies
    assert first == {**REQUEST, **own, "prompt": "Once", "stream": True, "stream_options": options}
    rest = {"max_tokens": 6, "min_tokens": 1, "temperature": 0.5, "stop": "!", "state": "s2"}
    assert second == {**rest, "stream": True, "stream_options": options}
    assert (pieces.text, pieces.num_resumed, waits) == ("abcdefgh", 1, [0.5])
    assert pieces.generation.usage == Usage(4, 7, 11)
    assert pieces.generation.finish_reason == "length"


@pytest.mark.parametrize(("last", "expected"), [([], None), ([usage_chunk()], Usage(1, 3, 4))], ids=["lost", "there"])
def test_the_usage_of_a_stream_whose_end_is_lost_is_not_that_of_its_beginning(client, server, last, expected):
    """It comes after the finish reason; before that, it counts the tokens up to a resume token."""
    server.script = [cut(marked("a", 1, "s1"), chunk("b", "length"), *last)]
    pieces = client.stream("Once", **REQUEST, resume=True)
    assert list(pieces) == ["a", "b"]
    assert (pieces.generation.finish_reason, pieces.generation.usage) == ("length", expected)
    assert len(server.bodies) == 1


def test_without_a_state_the_request_is_sent_again_with_its_seed(client, server):
    """Before the first event the seed is unknown."""
    server.script = [cut(chunk("ab"), chunk("c")), stream([chunk("a"), chunk("bcd", "stop"), DONE])]
    server.script += [cut(), stream([chunk("abc", "stop"), DONE])]
    pieces = client.stream("Once", **REQUEST, resume=True)
    assert list(pieces) == ["ab", "c", "d"]
    assert server.bodies[1] == {**server.bodies[0], "seed": 7}
    assert (pieces.text, pieces.generation.finish_reason) == ("abcd", "stop")
    assert list(client.stream("Once", **REQUEST, resume=True)) == ["abc"]
    assert server.bodies[2] == server.bodies[3] == server.bodies[0]


def test_without_max_tokens_the_whole_request_is_sent_again(client, server):
    server.script = [cut(marked("ab", 2, "s1"), chunk("c")), stream([chunk("abcd", "stop"), DONE])]
    assert list(client.stream("Once", model="tiny", resume=True)) == ["ab", "c", "d"]
    assert "state" not in server.bodies[1]
    assert "state_interval" not in server.bodies[0]["stream_options"]


def test_a_stream_can_be_resumed_several_times(server, waits):
    server.script = [
        cut(marked("a", 1, "s1"), chunk("b")),
        cut(chunk("b"), marked("c", 2, "s3", prompt_tokens=0), chunk("d")),
        cut(),
        cut(),
        stream([chunk("d"), chunk("e", "length"), usage_chunk(), DONE]),
    ]
    with Client(server.url, max_retries=0) as client:
        pieces = client.stream("Once", **REQUEST, resume=True)
        assert list(pieces) == ["a", "b", "c", "d", "e"]
    assert [body.get("state") for body in server.bodies] == [None, "s1", "s3", "s3", "s3"]
    assert [body["max_tokens"] for body in server.bodies] == [10, 9, 7, 7, 7]
    assert (pieces.num_resumed, waits) == (4, [0.5, 0.5, 0.5, 1.0])
    assert pieces.generation.usage == Usage(4, 6, 10)


def test_an_interruption_while_text_is_repeated_loses_the_state_and_no_text(client, server, waits):
    """The last state would resume before the end of the text."""
    server.script = [cut(marked("ab", 2, "s2"), marked("cd", 4, "s4")), *[cut(marked("ab", 2, "s2"))] * 50]
    with pytest.raises(sostenuto.StreamInterrupted) as caught:
        list(client.stream("Once", model="tiny", return_state=True, resume=True))
    assert (caught.value.text, caught.value.state) == ("abcd", None)
    assert waits


@pytest.mark.parametrize("again", [cut(), cut(chunk("a"), chunk("b")), cut(chunk("a"))])
def test_resuming_ends_after_two_minutes_without_new_text(client, server, waits, again):
    server.script = [cut(chunk("ab")), *[again] * 50]
    with pytest.raises(sostenuto.StreamInterrupted, match="interrupted after 2 characters") as caught:
        list(client.stream("Once", **REQUEST, resume=True))
    assert caught.value.text == "ab"
    assert waits == [0.5, 0.5, 1.0, 2.0, 4.0, *[8.0] * 14]
    assert len(server.requests) == 1 + len(waits)


def test_resuming_waits_for_a_server_that_restarts(client, server, waits):
    away = [refusal(503, "starting", code="backend_unavailable")] * 9
    server.script = [cut(marked("ab", 2, "s1"), chunk("c")), *away, stream([chunk("cd", "stop"), DONE])]
    assert "".join(client.stream("Once", **REQUEST, resume=True)) == "abcd"
    assert [body.get("state") for body in server.bodies] == [None, *["s1"] * 10]
    assert sum(waits) > 5


def test_resuming_ends_if_the_server_stays_unavailable(client, server):
    server.script = [cut(chunk("ab")), *[refusal(503, "starting")] * 100]
    with pytest.raises(sostenuto.ServiceUnavailable) as caught:
        list(client.stream("Once", **REQUEST, resume=True))
    assert caught.value.text == "ab"
    assert 40 < len(server.requests) < 70


def test_the_time_of_failed_attempts_counts(client, server, monkeypatch):
    """A host that accepts no connection takes until the connect timeout, three times each."""
    monkeypatch.setattr(_retries, "monotonic", itertools.count(0, 50).__next__)
    server.script = [cut(chunk("ab")), *[hang_up] * 100]
    with pytest.raises(sostenuto.ConnectionFailed):
        list(client.stream("Once", **REQUEST, resume=True))
    assert len(server.requests) == 1 + 3 * 3


@pytest.mark.parametrize("away", [hang_up, refusal(503, "starting"), refusal(502, "no gateway")])
def test_a_stream_waits_for_a_server_that_was_lost_before_it_begins(client, server, away):
    server.script = [models("tiny"), *[away] * 20, stream([chunk("abc", "stop"), DONE])]
    client.models()
    assert list(client.stream("Once", **REQUEST, resume=True)) == ["abc"]
    assert server.bodies[1:] == [server.bodies[1]] * 21


@pytest.mark.parametrize(
    ("before", "answer", "num_requests"),
    [
        ([], hang_up, 3),
        ([models("tiny")], refusal(429, "full"), 3),
        ([models("tiny")], refusal(500, "oops"), 3),
        ([models("tiny")], refusal(400, "no"), 1),
    ],
    ids=["never responded", "full", "error", "refused"],
)
def test_a_stream_does_not_wait_for_a_server_that_was_not_lost(client, server, before, answer, num_requests):
    server.script = [*before, *[answer] * 20]
    if before:
        client.models()
    with pytest.raises(sostenuto.APIError if before else sostenuto.ConnectionFailed):
        client.stream("Once", **REQUEST, resume=True)
    assert len(server.requests) == len(before) + num_requests


def test_a_stream_waits_two_minutes_for_a_lost_server(client, server, waits):
    server.script = [models("tiny"), *[hang_up] * 100]
    client.models()
    with pytest.raises(sostenuto.ConnectionFailed):
        client.stream("Once", **REQUEST, resume=True)
    retries = len(waits) - 2  # those of the first attempt
    assert sum(waits) > _retries.PATIENCE_S
    assert 40 < retries < 70


def test_usage_is_counted_once(client, server):
    server.script = [cut(marked("ab", 2, "s1"), chunk("c")), cut(chunk("c"), chunk("d")), *[cut()] * 19]
    pieces = client.stream("Once", **{**REQUEST, "min_tokens": 1}, resume=True)
    with pytest.raises(sostenuto.StreamInterrupted):
        list(pieces)
    assert (pieces.text, pieces.generation.usage) == ("abcd", Usage(4, 2, 6))
    assert [body["min_tokens"] for body in server.bodies] == [1, *[0] * 20]


def test_a_rejected_resumption_is_raised_with_the_text_so_far(client, server):
    server.script = [cut(marked("ab", 2, "s1"), chunk("c")), refusal(410, "gone", code="state_outdated")]
    with pytest.raises(sostenuto.StateRefused) as caught:
        list(client.stream("Once", **REQUEST, resume=True))
    assert caught.value.text == "abc"
    assert isinstance(caught.value.__cause__, sostenuto.StreamInterrupted)


@pytest.mark.parametrize("code", ["shutting_down", "backend_unavailable", None])
def test_a_server_error_with_a_state_is_resumed(client, server, code):
    error = {"error": {"message": "no", "type": "server_error", "code": code}, **marked("c", 3, "s1")}

    def rest(handler):
        assert server.left.wait(PATIENCE_S)
        stream([chunk("d", "stop"), DONE])(handler)

    server.script = [stream([chunk("ab"), error], then=linger), rest]
    if code is None:
        error["error"] = {"message": "no", "code": 500}
    assert list(client.stream("Once", **REQUEST, resume=True)) == ["ab", "c", "d"]
    assert (server.bodies[1]["state"], server.bodies[1]["max_tokens"]) == ("s1", 7)


LAST = marked("c", 3, "s1")


@pytest.mark.parametrize(
    ("code", "last"), [("deadline_exceeded", LAST), ("version_gone", LAST), ("model_not_found", {})]
)
def test_permanent_errors_end_the_stream_with_text_and_state(client, server, code, last):
    error = {"error": {"message": "no", "code": code}, **last}
    server.script = [stream([as_event(chunk("ab")) + as_event(error)], headers={"x-request-id": "req-9"})]
    pieces, got = client.stream("Once", **REQUEST, resume=True), []
    with pytest.raises(sostenuto.APIError, match=r"^no \(request req-9\)") as caught:
        got.extend(pieces)
    text, state = ("abc", "s1") if last else ("ab", None)
    assert ("".join(got), caught.value.text, caught.value.state) == (text, text, state)
    assert (list(pieces), len(server.requests)) == ([], 1)


def test_a_repeated_text_that_differs_raises_resumption_failed(client, server):
    """A different server may sample differently; that is no continuation, and is not retried."""
    for rest in ([chunk("abX")], [chunk("ab", "stop"), DONE]):
        server.script = [cut(chunk("abc")), stream(rest)]
        with pytest.raises(sostenuto.ResumptionFailed, match="send the request again") as caught:
            list(client.stream("Once", **REQUEST, resume=True))
        assert caught.value.text.startswith("ab")


def test_without_resume_an_interrupted_stream_is_an_error_with_text_and_state(client, server):
    """It has only a state that covers the whole text: resuming from an earlier one would generate the rest twice."""
    server.script = [cut(marked("ab", 2, "s1")), stream([marked("ab", 2, "s1"), chunk("c")])]
    for text, state in (("ab", "s1"), ("abc", None)):
        pieces, got = client.stream("Once", **REQUEST), []
        message = rf"interrupted after {len(text)} characters .*resume=True"
        with pytest.raises(sostenuto.StreamInterrupted, match=message) as caught:
            got.extend(pieces)
        assert ("".join(got), caught.value.text, caught.value.state) == (text, text, state)
    assert len(server.requests) == 2
    assert "state_interval" not in server.bodies[0]["stream_options"]


def test_an_interruption_after_the_finish_reason_is_no_error(client, server):
    server.script = [cut(chunk("ab"), chunk("c", "stop"))]
    assert list(client.stream("Once", **REQUEST, resume=True)) == ["ab", "c"]


def test_a_state_without_usage_is_not_resumed(client, server):
    """The number of tokens before it is unknown."""
    server.script = [
        cut(marked("ab", 2, "s1"), chunk("c", state="s2"), chunk("d")),
        stream([chunk("cde", "stop"), DONE]),
    ]
    assert "".join(client.stream("Once", **REQUEST, resume=True)) == "abcde"
    assert server.bodies[1]["state"] == "s1"


@pytest.mark.parametrize(("num_waits", "rest"), [(1, []), (2, [refusal(503, "no", headers={"Retry-After": "50"})])])
def test_closing_a_stream_ends_its_wait_and_sends_nothing(client, server, waits, num_waits, rest):
    server.script = [cut(marked("ab", 2, "s1")), *rest]
    pieces = client.stream("Once", **REQUEST, resume=True)
    waits.on_wait = lambda: len(waits) == num_waits and pieces.close()
    assert (list(pieces), pieces.text, len(server.requests)) == (["ab"], "ab", 1 + len(rest))
    assert len(waits) == num_waits


def test_closing_a_stream_abandons_a_pending_resumption(client, server):
    closed = threading.Event()

    def late(handler):
        assert closed.wait(PATIENCE_S)
        stream([chunk("abc")], then=linger)(handler)

    server.script = [cut(chunk("ab")), late]
    pieces = client.stream("Once", **REQUEST, resume=True)
    reading = ThreadPoolExecutor(1).submit(list, pieces)
    until(lambda: len(server.requests) == 2)
    pieces.close()
    assert reading.result(PATIENCE_S) == ["ab"]
    closed.set()
    assert server.left.wait(PATIENCE_S)


def test_closing_the_client_ends_a_wait_with_the_interruption(client, server, waits):
    server.script = [cut(chunk("ab"))]
    waits.on_wait = client.close
    with pytest.raises(sostenuto.StreamInterrupted) as caught:
        list(client.stream("Once", **REQUEST, resume=True))
    assert (caught.value.text, len(server.requests)) == ("ab", 1)


def test_after_a_read_timeout_the_connection_is_closed_before_resuming(server, waits):
    def rest(handler):
        assert server.left.wait(PATIENCE_S)
        stream([chunk("abc", "stop"), DONE])(handler)

    server.script = [stream([chunk("ab")], then=linger), rest]
    with Client(server.url, timeout=1) as hasty:
        assert list(hasty.stream("Once", **REQUEST, resume=True)) == ["ab", "c"]
    assert waits == [0.5]


def test_a_resumption_without_a_response_is_repeated(server, waits, monkeypatch):
    """Its read timeout counts towards the two minutes."""
    server.script = [cut(chunk("ab")), linger, stream([chunk("abc", "stop"), DONE]), cut(chunk("ab")), linger]
    with Client(server.url, timeout=0.5) as hasty:
        assert list(hasty.stream("Once", **REQUEST, resume=True)) == ["ab", "c"]
        assert (waits[0], len(waits)) == (0.5, 2)
        assert waits[1] >= 1.0
        monkeypatch.setattr(_retries, "PATIENCE_S", 1.5)
        with pytest.raises(sostenuto.Timeout) as caught:
            list(hasty.stream("Once", **REQUEST, resume=True))
    assert (caught.value.text, len(waits)) == ("ab", 3)


@pytest.mark.parametrize("fields", [{"n": 2}, {"prompt": ["a", "b"]}, {"suffix": [[1], [2]]}])
def test_resume_requires_one_prompt_and_n_1(client, server, fields):
    """Several choices have no single state; the error comes before anything is sent."""
    with pytest.raises(sostenuto.InvalidArgument, match="one prompt and n=1"):
        client.stream(**{"model": "tiny", **fields}, resume=True)
    assert server.requests == []
    server.script = [stream([chunk("a", "stop"), DONE])] * 3
    for prompt in ([1, 2], ["one"], [[1, 2]]):
        assert list(client.stream(prompt, model="tiny", n=1, resume=True)) == ["a"]


def test_an_interruption_within_an_event_loses_that_event_alone(client, server):
    whole = as_event(marked("ab", 2, "s1")) + as_event(chunk("cd"))
    rest = stream([chunk("cd"), chunk("e", "stop"), DONE])
    for place in range(len(whole)):
        server.script = [stream([whole[:place]] if place else [], then=hang_up), rest]
        if b"\n\n" not in whole[:place]:
            server.script[1] = stream([chunk("abcde", "stop"), DONE])
        assert "".join(client.stream("Once", **REQUEST, resume=True)) == "abcde"
