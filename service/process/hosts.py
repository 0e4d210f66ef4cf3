"""Which names of this server a request may have in its Host header.

A web page whose name resolves to this machine (DNS rebinding) has the same origin as this server, to a browser: it may
send requests and read the responses. Its name stands in Host, where no page can change it.
"""

import ipaddress
from collections.abc import Iterable

ANY = "*"


class AllowedHosts:
    """Names that requests may give to this server, beside `localhost` and IP addresses.

    An address is always allowed: nobody can have it resolve to another one. Health checks and metrics use addresses.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = frozenset(name.lower() for name in names)

    def allows(self, host: str | None) -> bool:
        """Say whether a request with this Host header is one for this server; None: without one, so by no browser."""
        if host is None or ANY in self._names:
            return True
        name = host_name(host)
        return name in self._names or name == "localhost" or name.endswith(".localhost") or _is_address(name)


def host_name(host: str) -> str:
    """Return the name or address in a Host header, without port, brackets and the dot of the root."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
