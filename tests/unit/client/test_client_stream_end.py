"""How streams end, and what becomes of their connections."""

from __future__ import annotations

import gc
import threading
import time

import pytest

import ostinato
from ostinato import Client
from tests.unit.client.scripted_responses import WHOLE, as_event, chunk, hang_up, linger, stream
from tests.unit.client.scripted_server import PATIENCE_S, Handler, ScriptedServer


@pytest.mark.parametrize("event", [b"data: {\n\n", b"data: 7\n\n", b"data: {}\n\n"])
def test_an_event_of_another_shape_is_unexpected(client: Client, server: ScriptedServer, event: bytes) -> None:
    """What is no chunk ends the stream with an error, and the connection with it."""
    server.script = [stream([event], then=linger)]
    with pytest.raises(ostinato.UnexpectedResponse):
        next(client.stream("Once", model="tiny"))
    assert server.left.wait(PATIENCE_S)


def test_leaving_a_with_block_closes_the_connection(client: Client, server: ScriptedServer) -> None:
    """The server learns at once that nobody reads on."""
    server.script = [stream([chunk("first")], then=linger)]
    with client.stream("Once", model="tiny") as pieces:
        next(pieces)
        assert not server.left.is_set()
    assert server.left.wait(PATIENCE_S)
    assert list(pieces) == []


def test_a_stream_that_is_dropped_closes_its_connection(client: Client, server: ScriptedServer) -> None:
    """Leaving the loop is enough, with no cycle for the garbage collector to find."""
    server.script = [stream([chunk("first"), chunk("second")], then=linger)]
    gc.disable()
    try:
        for _ in client.stream("Once", model="tiny"):
            break
        assert server.left.wait(PATIENCE_S)
    finally:
        gc.enable()


def test_a_stream_that_is_never_read_closes_its_connection(client: Client, server: ScriptedServer) -> None:
    """A stream that was opened and forgotten does not hold its row."""
    server.script = [stream([chunk("first")], then=linger)]
    client.stream("Once", model="tiny")
    assert server.left.wait(PATIENCE_S)


def test_events_outlive_the_stream_that_they_came_from(client: Client, server: ScriptedServer) -> None:
    """`client.stream(…).events()` can be iterated, though nothing else refers to the stream."""
    server.script = [stream(WHOLE)]
    assert "".join(piece.text for piece in client.stream("Once", model="tiny").events()) == " upon a time"


def test_a_closed_stream_gives_nothing_more(client: Client, server: ScriptedServer) -> None:
    """`close` ends the iteration without an error, even of pieces that had arrived; twice is once."""
    server.script = [stream([as_event(chunk("first")) + as_event(chunk("second"))], then=linger)]
    pieces = client.stream("Once", model="tiny")
    assert next(pieces) == "first"
    pieces.close()
    pieces.close()
    assert (list(pieces), pieces.text) == ([], "first")
    assert server.left.wait(PATIENCE_S)


def test_another_thread_can_close_a_stream_that_waits(client: Client, server: ScriptedServer) -> None:
    """The reading thread is woken, and sees an end rather than an error."""
    server.script = [stream([chunk("first")], then=linger)]
    pieces = client.stream("Once", model="tiny")
    assert next(pieces) == "first"
    threading.Timer(0.1, pieces.close).start()
    start_s = time.monotonic()
    assert list(pieces) == []
    assert time.monotonic() - start_s < PATIENCE_S / 2
    assert server.left.wait(PATIENCE_S)


def test_closing_while_another_thread_reads_is_no_error(client: Client, server: ScriptedServer) -> None:
    """Who comes to the next piece while the stream is being closed sees its end."""
    closing, go_on = threading.Event(), threading.Event()

    def take_time(_: ostinato.Generation) -> None:
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


def test_closing_does_not_wait_for_a_stream_that_is_taken_up_again(client: Client, server: ScriptedServer) -> None:
    """The thread that reads may be waiting for a server; it sees the end by itself."""
    asked, go_on = threading.Event(), threading.Event()

    def late(handler: Handler) -> None:
        asked.set()
        assert go_on.wait(PATIENCE_S)
        stream([chunk("ab")])(handler)

    server.script = [stream([chunk("a")], then=hang_up), late]
    pieces = client.stream("Once", model="tiny", resume=True)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.extend(pieces))
    reader.start()
    assert asked.wait(PATIENCE_S)
    pieces.close()
    assert reader.is_alive()
    go_on.set()
    reader.join(PATIENCE_S)
    assert got == ["a"]


def test_a_stream_read_to_its_end_leaves_its_connection_to_the_next(client: Client, server: ScriptedServer) -> None:
    """Ten streams in a row need one connection."""
    server.script = [stream(WHOLE)] * 10
    for _ in range(10):
        list(client.stream("Once", model="tiny"))
    assert len({request.client_port for request in server.requests}) == 1


def test_a_server_that_does_not_end_after_done_is_not_waited_for(client: Client, server: ScriptedServer) -> None:
    """[DONE] is the end, also where the connection stays open behind it."""
    server.script = [stream(WHOLE, then=linger)]
    start_s = time.monotonic()
    assert "".join(client.stream("Once", model="tiny")) == " upon a time"
    assert time.monotonic() - start_s < PATIENCE_S / 2
    assert server.left.wait(PATIENCE_S)
