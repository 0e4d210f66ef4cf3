"""`stream`, against a real HTTP server: its deltas and its end, and when connections are closed or reused."""

import gc
import threading
import time

import pytest

import sostenuto
from sostenuto import Client, StreamInterrupted, TextDelta, Usage
from tests.unit.client.scripted_responses import (
    COMPLETION,
    DONE,
    WHOLE,
    answer_bytes,
    answer_json,
    as_event,
    chunk,
    linger,
    marked,
    models,
    stream,
)
from tests.unit.client.scripted_server import PATIENCE_S


@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked", "Connection: close"])
def test_a_delta_is_yielded_before_the_next_one_is_sent(client, server, framing):
    read = threading.Event()

    def answer(handler):
        handler.start(200, {"Content-Type": "text/event-stream", **dict([framing.split(": ")])})
        write = handler.write_chunk if "chunked" in framing else handler.wfile.write
        write(as_event(chunk("first")))
        assert read.wait(PATIENCE_S)
        write(as_event(chunk("second", "stop")) + as_event(DONE))
        write(b"")

    server.script = [answer]
    pieces = client.stream("Once", model="tiny")
    assert next(pieces) == "first"
    read.set()
    assert list(pieces) == ["second"]


def test_the_generation_of_a_stream_is_the_text_so_far_and_in_the_end_that_of_generate(client, server):
    server.script = [stream(WHOLE), answer_json(COMPLETION)]
    pieces = client.stream("Once", model="tiny")
    assert (pieces.generation.text, next(pieces)) == ("", " upon")
    so_far = pieces.generation
    assert (so_far.text, so_far.seed, so_far.finish_reason, so_far.usage) == (" upon", 7, None, None)
    assert (list(pieces), pieces.text) == ([" a", " time"], " upon a time")
    assert pieces.generation == client.generate("Once", model="tiny")
    assert pieces.generation.usage == Usage(1, 3, 4)


def test_a_stream_is_requested_with_usage_and_uncompressed(client, server):
    server.script = [models("first"), stream([DONE])]
    list(client.stream("Once", max_tokens=3, return_state=True))
    options = {"stream": True, "stream_options": {"include_usage": True}}
    assert server.bodies[1] == {"model": "first", "prompt": "Once", "max_tokens": 3, "return_state": True, **options}
    assert server.requests[1].headers["Accept"] == "text/event-stream"
    assert server.requests[1].headers["Accept-Encoding"] == "identity"


def test_events_have_the_index_of_their_choice(client, server):
    server.script = [stream([chunk("a"), chunk("x", index=1), chunk("b", "stop"), chunk("y", "length", 1), DONE])]
    pieces = client.stream("Once", model="tiny", n=2)
    first, second = TextDelta(0, "a", None), TextDelta(1, "x", None)
    assert list(pieces.events()) == [first, second, TextDelta(0, "b", "stop"), TextDelta(1, "y", "length")]
    assert [choice.text for choice in pieces.generation.choices] == ["ab", "xy"]
    assert [choice.finish_reason for choice in pieces.generation.choices] == ["stop", "length"]


def test_a_resume_token_of_another_choice_may_come_first(client, server):
    second = {"index": 1, "text": "b", "finish_reason": None, "state": "ost1.b.b"}
    first = {"index": 0, "text": "a", "finish_reason": "length", "state": "ost1.a.a"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    server.script = [stream([{"choices": [second], "usage": usage}, {"choices": [first]}, DONE])]
    opened = client.stream("Once", model="tiny", n=2, return_state=True, stream_options={"state_interval": 1})
    assert [delta.text for delta in opened.events()] == ["b", "a"]
    assert [choice.state for choice in opened.generation.choices] == ["ost1.a.a", "ost1.b.b"]


def test_a_resume_token_before_the_end_is_not_that_of_the_end(client, server):
    """The EOS token has no text; a request that resumed before it would generate nothing but the end again."""
    events = [marked("a", 1, "ost1.a.a"), chunk("", "stop")]
    server.script = [stream([*events, DONE]), stream([events[0], chunk("", "stop", state="ost1.b.b"), DONE])]
    for state in (None, "ost1.b.b"):
        with client.stream("Once", model="tiny", stream_options={"state_interval": 1}) as opened:
            assert list(opened) == ["a"]
        assert opened.generation.state == state


def test_iterating_yields_the_first_choice_alone(client, server):
    server.script = [stream([chunk("x", index=1), chunk("a"), chunk("y", index=1), chunk("b", "stop"), DONE])]
    assert list(client.stream("Once", model="tiny", n=2)) == ["a", "b"]


def test_logprobs_and_other_fields_of_chunks_are_merged(client, server):
    first = {"tokens": ["a"], "token_logprobs": [-1.0], "text_offset": [0]}
    second = {"tokens": ["b"], "token_logprobs": [-2.0], "text_offset": [1]}
    server.script = [stream([chunk("a", logprobs=first), chunk("b", "stop", logprobs=second, state="S"), DONE])]
    pieces = client.stream("Once", model="tiny", logprobs=1)
    assert list(pieces.events()) == [TextDelta(0, "a", None), TextDelta(0, "b", "stop")]
    lists = {"tokens": ["a", "b"], "token_logprobs": [-1.0, -2.0], "text_offset": [0, 1]}
    (choice,) = pieces.generation.raw["choices"]
    assert choice == {"index": 0, "text": "ab", "finish_reason": "stop", "logprobs": lists, "state": "S"}


def test_deltas_of_a_backward_model_are_prepended(client, server):
    last = {"tokens": ["e", "f"], "token_logprobs": [-5.0, None], "text_offset": [0, 1]}
    first = {"tokens": ["ab", "cd"], "token_logprobs": [-1.0, -2.0], "text_offset": [0, 2]}
    server.script = [
        stream([chunk("ef", logprobs=last, prepend=True), chunk("abcd", "stop", logprobs=first, prepend=True), DONE])
    ]
    pieces = client.stream(suffix="!", model="tiny", logprobs=1, prepend=True)
    assert server.bodies[0]["stream_options"] == {"include_usage": True, "prepend": True}
    events = pieces.events()
    assert next(events) == TextDelta(0, "ef", None, prepend=True)
    assert pieces.generation.raw["choices"][0]["logprobs"] == last
    assert list(events) == [TextDelta(0, "abcd", "stop", prepend=True)]
    offsets = {"token_logprobs": [-1.0, -2.0, -5.0, None], "text_offset": [0, 2, 4, 5]}
    lists = {"tokens": ["ab", "cd", "e", "f"], **offsets}
    (choice,) = pieces.generation.raw["choices"]
    assert choice == {"index": 0, "text": "abcdef", "finish_reason": "stop", "logprobs": lists}


def test_stream_options_are_added_to_the_clients_own(client, server):
    server.script = [stream([DONE])] * 2
    for given, sent in (({"state_interval": 8}, {"state_interval": 8}), (None, {})):
        list(client.stream(suffix="!", model="tiny", prepend=True, stream_options=given))
        assert server.bodies[-1]["stream_options"] == {"include_usage": True, "prepend": True, **sent}


def test_a_null_in_a_later_chunk_keeps_the_earlier_value(client, server):
    usage = COMPLETION["usage"]
    early = {**chunk("a", "stop", state="S"), "usage": usage}
    server.script = [stream([early, {**chunk("", state=None), "usage": None}, DONE])]
    pieces = client.stream("Once", model="tiny")
    assert list(pieces) == ["a"]
    (choice,) = pieces.generation.raw["choices"]
    assert (choice["state"], choice["finish_reason"], pieces.generation.raw["usage"]) == ("S", "stop", usage)


@pytest.mark.parametrize("content_type", ["text/html", "application/json"])
def test_a_response_that_is_no_event_stream_is_unexpected(client, server, content_type):
    server.script = [answer_bytes(b"{}", content_type)]
    with pytest.raises(sostenuto.UnexpectedResponse, match=f"with {content_type}, not a stream of events"):
        client.stream("Once", model="tiny")


def test_the_read_timeout_applies_between_deltas(server):
    server.script = [stream([chunk("first")], then=linger)]
    with Client(server.url, timeout=(5, 1)) as client, client.stream("Once", model="tiny") as pieces:
        assert next(pieces) == "first"
        with pytest.raises(StreamInterrupted, match="no byte arrived within the read timeout"):
            next(pieces)


@pytest.mark.parametrize("event", [b"data: {\n\n", b"data: 7\n\n", b"data: {}\n\n"])
def test_a_malformed_event_is_unexpected(client, server, event):
    server.script = [stream([event], then=linger)]
    with pytest.raises(sostenuto.UnexpectedResponse):
        next(client.stream("Once", model="tiny"))
    assert server.left.wait(PATIENCE_S)


def test_an_unreferenced_stream_closes_its_connection(client, server):
    """Leaving the loop is enough: there is no reference cycle that needs the garbage collector."""
    server.script = [stream([chunk("first"), chunk("second")], then=linger)]
    gc.disable()
    try:
        for _ in client.stream("Once", model="tiny"):
            break
        assert server.left.wait(PATIENCE_S)
    finally:
        gc.enable()


def test_a_stream_that_is_never_read_closes_its_connection(client, server):
    server.script = [stream([chunk("first")], then=linger)]
    client.stream("Once", model="tiny")
    assert server.left.wait(PATIENCE_S)


def test_events_keep_their_stream_open(client, server):
    server.script = [stream(WHOLE)]
    assert "".join(piece.text for piece in client.stream("Once", model="tiny").events()) == " upon a time"


def test_a_closed_stream_yields_nothing_more_and_closes_its_connection(client, server):
    server.script = [stream([as_event(chunk("first")) + as_event(chunk("second"))], then=linger)]
    with client.stream("Once", model="tiny") as pieces:
        assert next(pieces) == "first"
        assert not server.left.is_set()
    pieces.close()
    assert (list(pieces), pieces.text) == ([], "first")
    assert server.left.wait(PATIENCE_S)


def test_another_thread_can_close_a_stream_that_blocks(client, server):
    server.script = [stream([chunk("first")], then=linger)]
    pieces = client.stream("Once", model="tiny")
    assert next(pieces) == "first"
    threading.Timer(0.1, pieces.close).start()
    start_s = time.monotonic()
    assert list(pieces) == []
    assert time.monotonic() - start_s < PATIENCE_S / 2
    assert server.left.wait(PATIENCE_S)


def test_closing_while_another_thread_reads_is_no_error(client, server):
    closing, go_on = threading.Event(), threading.Event()

    def take_time(_):
        closing.set()
        assert go_on.wait(PATIENCE_S)

    server.script = [stream([chunk("first")], then=linger)]
    pieces = client.stream("Once", model="tiny")
    pieces._when_ended(take_time)
    next(pieces)
    closer = threading.Thread(target=pieces.close)
    closer.start()
    assert closing.wait(PATIENCE_S)
    threading.Timer(0.05, go_on.set).start()
    assert list(pieces) == []
    closer.join(PATIENCE_S)


def test_a_stream_read_to_its_end_leaves_its_connection_for_reuse(client, server):
    server.script = [stream(WHOLE)] * 10
    for _ in range(10):
        list(client.stream("Once", model="tiny"))
    assert len({request.client_port for request in server.requests}) == 1


def test_done_ends_the_stream_though_the_connection_stays_open(client, server):
    server.script = [stream(WHOLE, then=linger)]
    start_s = time.monotonic()
    assert "".join(client.stream("Once", model="tiny")) == " upon a time"
    assert time.monotonic() - start_s < PATIENCE_S / 2
    assert server.left.wait(PATIENCE_S)
