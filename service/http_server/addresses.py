"""Listening sockets, and the host names that a request's Host header may have."""

import ipaddress
import socket
from collections.abc import Collection

ANY = "*"


def listen(host: str, port: int, backlog: int | None = None) -> socket.socket:
    """Bind an address or a name, and listen; port 0 picks a free one. OSError has a one-line message."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=backlog)
    except OSError as error:
        # Python appends the address to the system's message.
        reason = str(error.strerror).partition(" (while ")[0]
        raise OSError(f"cannot listen on {host}:{port}: {reason}") from error


def is_loopback(host: str) -> bool:
    """Return whether a host is reachable from this machine only; False for a name that cannot be resolved."""
    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses)


def is_allowed_host(host: str | None, names: Collection[str] = ()) -> bool:
    """Return whether a Host header has one of some names (lower case), `localhost` or an IP address.

    Protects against DNS rebinding: to a browser, a web page whose name resolves to this machine has the same origin as
    this server, and may send requests and read the responses. Its name is in the Host header, which no page can change.
    An IP address is always allowed: it cannot be rebound, and health checks and metrics use addresses. A request
    without the header (None) is allowed: browsers always send it.
    """
    if host is None or ANY in names:
        return True
    name = _name_in(host)
    return name in names or name == "localhost" or name.endswith(".localhost") or is_address(name)


def _name_in(host: str) -> str:
    """Return the name or address in a Host header, without port, brackets and trailing dot."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().removesuffix(".")


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
