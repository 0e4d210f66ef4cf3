"""The host names that a request's Host header may have: protection against DNS rebinding.

To a browser, a web page whose name resolves to this machine has the same origin as this server: it may send requests
and read the responses. Its name is in the Host header, which no page can change.
"""

import ipaddress
from collections.abc import Iterable

ANY = "*"


class AllowedHosts:
    """The allowed host names, besides `localhost` and IP addresses.

    An IP address is always allowed: it cannot be rebound. Health checks and metrics use addresses.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = frozenset(name.lower() for name in names)

    def allows(self, host: str | None) -> bool:
        """Return whether a Host header is allowed; None, a request without one, is: browsers always send it."""
        if host is None or ANY in self._names:
            return True
        name = host_name(host)
        return name in self._names or name == "localhost" or name.endswith(".localhost") or _is_address(name)


def host_name(host: str) -> str:
    """Return the name or address in a Host header, without port, brackets and trailing dot."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
