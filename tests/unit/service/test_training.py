"""Uploads and streams of events of the gateway have limits."""

import io
import threading

import pytest

from service.errors import InvalidRequest, Overloaded
from service.settings import Settings
from service.training import EventStreams, Training


def test_streams_are_limited_of_a_tenant_and_in_all():
    """A quarter of the sequences, half of it for one tenant; one that ends makes room."""
    streams = EventStreams(64)
    ends = [streams.add("a") for _ in range(8)]
    with pytest.raises(Overloaded, match="at most 8 streams of a tenant"):
        streams.add("a")
    for _ in range(8):
        streams.add("b")
    with pytest.raises(Overloaded, match="at most 16 streams of events"):
        streams.add("c")
    ends.pop()()
    streams.add("c")


def test_a_small_server_has_some_streams():
    streams = EventStreams(1)
    streams.add("a")
    streams.add("a")
    with pytest.raises(Overloaded, match="at most 2 streams"):
        streams.add("a")


def test_concurrent_streams_do_not_exceed_the_limit():
    streams, opened = EventStreams(400), []

    def add():
        for _ in range(20):
            try:
                opened.append(streams.add("a"))
            except Overloaded:
                return

    threads = [threading.Thread(target=add) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 50


@pytest.mark.parametrize("name", ["", "x" * 256, "a\x1b[2J.txt", "a\n.txt", "a\0"])
def test_a_file_name_is_printable_and_short(tmp_path, name):
    training = Training.open(Settings(training_dir=tmp_path))
    with pytest.raises(InvalidRequest, match="the file name must"):
        training.add_file("", name, io.BytesIO(b"text"))
    assert not (tmp_path / "files").exists()
    training.store.close()
