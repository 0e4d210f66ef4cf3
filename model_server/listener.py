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
    num_threads: int,
    add_services: Callable[[grpc.Server], None],
    credentials: grpc.ServerCredentials | None = None,
) -> tuple[grpc.Server, int]:
    """Start a gRPC server and return it and its port; port 0 chooses a free one.

    `num_threads` calls run at once; as many again may wait, and one more gets RESOURCE_EXHAUSTED.

    Raises:
        PortUnavailable: the port is in use.
    """
    # A finished call counts until its thread is free, by when its client may have sent the next call. If the limit were
    # the number of threads, that many clients would sometimes be refused.
    pool = ThreadPoolExecutor(num_threads, "grpc")
    server = grpc.server(pool, options=_OPTIONS, maximum_concurrent_rpcs=2 * num_threads)
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
