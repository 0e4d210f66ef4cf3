"""Opening the port that people connect to."""

import ipaddress
import os
import socket


def listen(host: str, port: int, backlog: int | None = None) -> socket.socket:
    """Bind and listen.

    Args:
        host: An IPv4 or IPv6 address, or a name.
        port: 0 takes a free one.
        backlog: Connections that the kernel holds until they are accepted.

    Raises:
        OSError: the port is in use, or there is no such address; the message says which, in one line.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=backlog)
    except OSError as error:
        # Name resolution has error numbers of its own; the system's texts repeat the address.
        why = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise OSError(f"cannot listen on {host}:{port}: {why}") from error


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches an address; a name that cannot be resolved is not taken to be so."""
    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses)
