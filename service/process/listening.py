"""Listening sockets."""

import ipaddress
import os
import socket


def listen(host: str, port: int, backlog: int | None = None) -> socket.socket:
    """Bind a host, an address or a name, and listen; port 0 picks a free one.

    Raises:
        OSError: the port is in use, or the address does not exist; the message says which, in one line.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=backlog)
    except OSError as error:
        # Name resolution has its own error numbers; the messages of other errors repeat the address.
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise OSError(f"cannot listen on {host}:{port}: {reason}") from error


def is_loopback(host: str) -> bool:
    """Return whether a host is reachable from this machine only; False for a name that cannot be resolved."""
    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses)
