"""Protection against cross-origin requests and DNS rebinding, and security headers."""

from flask import Request, Response

from service.errors import CrossOrigin, HostNotAllowed
from service.http_server.addresses import AllowedHosts, is_loopback
from service.settings import Settings

MAX_SHOWN = 60  # characters of a header in a message
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS = {
    # Pages set their own policies; of other responses nothing may be executed, loaded or framed.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def allowed_hosts(settings: Settings) -> AllowedHosts:
    """Return the allowed Host names: those of the settings; else only localhost on loopback without proxies, else any.

    A proxy in front passes on its own host name. Beyond loopback the server may have any name.
    """
    if settings.allowed_hosts is not None:
        return AllowedHosts(name.strip() for name in settings.allowed_hosts.split(","))
    is_local = is_loopback(settings.client_host) and not settings.num_proxies
    return AllowedHosts([] if is_local else ["*"])


def require_allowed_host(request: Request, hosts: AllowedHosts) -> None:
    """Raise HostNotAllowed unless the Host header has a name of this server."""
    host = request.headers.get("Host")
    if not hosts.allows(host):
        raise HostNotAllowed(
            f"Host must be localhost, an IP address or a name in SOSTENUTO_ALLOWED_HOSTS, got {host!r:.{MAX_SHOWN}}"
        )


def require_same_origin(request: Request) -> None:
    """Raise CrossOrigin for a request with an unsafe method from a page of another origin.

    A browser sends a text/plain POST without a CORS preflight. Sec-Fetch-Site decides where it is present (over HTTPS
    and to loopback); otherwise Origin must be this server. Other clients send neither. Go's http.CrossOriginProtection
    does the same.
    """
    if request.method in _SAFE_METHODS:
        return
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        is_own = site in ("same-origin", "none")
    else:
        is_own = origin is None or origin.partition("://")[2] == request.headers.get("Host")
    if not is_own:
        raise CrossOrigin(
            f"a web page may only call its own origin, got a request from {origin!r:.{MAX_SHOWN}}: call the API from a "
            "program, or serve the page from this origin"
        )


def add_security_headers(response: Response) -> None:
    """Add the security headers that a response does not set itself."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
