"""Ports and sockets for the servers of tests."""

import contextlib
import fcntl
import os
import socket
import tempfile
from pathlib import Path

# Below Linux's ephemeral ports (32,768 to 60,999), and below Kubernetes's node ports.
FIRST, LAST = 20_000, 29_999


def free_port() -> int:
    """Return a free port of the loopback interface that no other test gets, not even in another test run.

    A server may listen long after this call, once it has imported TensorFlow. By then an ephemeral port may belong to a
    connection or to another server, which then answers in its place.

    Raises:
        AssertionError: every port is taken.
    """
    with Path(tempfile.gettempdir(), f"sostenuto-test-ports-{os.getuid()}").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        port = int(file.read() or LAST)
        for _ in range(FIRST, LAST + 1):
            port = port + 1 if port < LAST else FIRST
            with contextlib.suppress(OSError):
                socket.create_server(("127.0.0.1", port)).close()
                file.truncate(0)
                file.write(str(port))
                return port
    raise AssertionError(f"every port from {FIRST} to {LAST} is taken")


def read_all(sock):
    """Return what arrives until the other end closes or resets the connection."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(1 << 16):
            data += piece
    return data
