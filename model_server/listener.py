"""The gRPC port: the check that it is free, and the server that listens on it.

Knows sockets, threads and options. Does not know the services.
"""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from model_server.errors import PortUnavailable

_OPTIONS = (
    # Otherwise two servers would silently share a port, and each would get some of the connections.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


def address(host: str, port: int) -> str:
    """Return host and port as the target of a gRPC channel."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_port(host: str, port: int) -> None:
    """Raise PortUnavailable, before minutes of loading, if the port is in use on every address, or there is none."""
    try:
        candidates = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise PortUnavailable(f"cannot listen on {address(host, port)}: {error.strerror}") from error
    failures = [_bind_error(family, socket_address) for family, _, _, _, socket_address in candidates]
    if all(failures):
        raise PortUnavailable(f"cannot listen on {address(host, port)}: {failures[-1]}")


def listen(
    host: str,
    port: int,
    max_threads: int,
    add_services: Callable[[grpc.Server], None],
    credentials: grpc.ServerCredentials | None = None,
) -> tuple[grpc.Server, int]:
    """Start a gRPC server and return it and its port; port 0 chooses a free one.

    `max_threads` is one more than the calls that run at once, as gRPC's C++ server keeps a thread for polling. The next
    call gets RESOURCE_EXHAUSTED at once.

    Raises:
        PortUnavailable: the port is in use.
    """
    max_calls = max_threads - 1
    pool = ThreadPoolExecutor(max_calls, "grpc")
    server = grpc.server(pool, options=_OPTIONS, maximum_concurrent_rpcs=max_calls)
    add_services(server)
    try:
        target = address(host, port)
        bound_port = server.add_secure_port(target, credentials) if credentials else server.add_insecure_port(target)
    except RuntimeError as error:
        raise PortUnavailable(f"cannot listen on {address(host, port)}: {error}") from error
    server.start()
    return server, bound_port


def _bind_error(family: int, socket_address: Any) -> str | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(socket_address)
    except OSError as error:
        return error.strerror
    return None
