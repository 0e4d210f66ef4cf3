"""How streams end, and when their connections are closed or reused."""

import gc
import threading
import time

import pytest

import sostenuto
from tests.unit.client.scripted_responses import WHOLE, as_event, chunk, linger, stream
from tests.unit.client.scripted_server import PATIENCE_S


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
