"""Servers of tests get ports that nobody else gets."""

import socket
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from tests import ports


@pytest.fixture(autouse=True)
def counter(tmp_path, monkeypatch):
    """A counter of this test's own."""
    monkeypatch.setattr(ports.tempfile, "gettempdir", lambda: str(tmp_path))


def test_processes_at_the_same_time_get_different_ports():
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        futures = [pool.submit(ports.free_port) for _ in range(100)]
        assert len({future.result() for future in futures}) == 100


def test_the_kernel_gives_none_of_them_to_a_connection():
    """Its range may have been changed on this machine; then it must not overlap."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        lowest, highest = map(int, file.read().split())
    assert lowest > ports.LAST or highest < ports.FIRST


def test_a_taken_port_is_passed_over_and_the_last_is_followed_by_the_first(monkeypatch):
    # Ports that servers of other tests do not get.
    monkeypatch.setattr(ports, "FIRST", ports.LAST + 1)
    monkeypatch.setattr(ports, "LAST", ports.LAST + 200)
    first = ports.free_port()
    monkeypatch.setattr(ports, "FIRST", first)
    monkeypatch.setattr(ports, "LAST", first + 1)
    with socket.create_server(("127.0.0.1", first + 1)):
        assert ports.free_port() == first
        with socket.create_server(("127.0.0.1", first)), pytest.raises(AssertionError, match="every port"):
            ports.free_port()
