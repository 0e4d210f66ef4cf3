"""The gRPC port: whether it is free, and the server that listens on it.

Knows sockets, threads and options. Does not know what is served.
"""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from model_server.errors import PortUnavailable

_OPTIONS = (
    # Otherwise two servers share one port without a word, and each gets some of the connections.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


def address(host: str, port: int) -> str:
    """Return host and port as a gRPC channel takes them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_port(host: str, port: int) -> None:
    """Fail now rather than after minutes of loading.

    Raises:
        PortUnavailable: the port is in use on every address of the host, or the host has none.
    """
    try:
        candidates = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise PortUnavailable(f"cannot listen on {address(host, port)}: {error.strerror}") from error
    failures = [_bind_error(family, where) for family, _, _, _, where in candidates]
    if all(failures):
        raise PortUnavailable(f"cannot listen on {address(host, port)}: {failures[-1]}")


def listen(
    host: str,
    port: int,
    num_threads: int,
    add_services: Callable[[grpc.Server], None],
    credentials: grpc.ServerCredentials | None = None,
) -> tuple[grpc.Server, int]:
    """Start a server.

    Args:
        host: Address or name.
        port: 0 takes a free one.
        num_threads: Calls that run at once; twice as many may be under way, one more gets RESOURCE_EXHAUSTED.
        add_services: Registers them.
        credentials: For TLS; None speaks plain text.

    Returns:
        The server and its port.

    Raises:
        PortUnavailable: the port is in use.
    """
    # A finished call counts until its thread is free, which is after its client may have sent the next: with no room
    # above the threads, as many clients as threads would now and then be turned away.
    pool = ThreadPoolExecutor(num_threads, "grpc")
    server = grpc.server(pool, options=_OPTIONS, maximum_concurrent_rpcs=2 * num_threads)
    add_services(server)
    try:
        where = address(host, port)
        bound = server.add_secure_port(where, credentials) if credentials else server.add_insecure_port(where)
    except RuntimeError as error:
        raise PortUnavailable(f"cannot listen on {address(host, port)}: {error}") from error
    server.start()
    return server, bound


def _bind_error(family: int, where: Any) -> str | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        return error.strerror
    return None
