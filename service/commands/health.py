"""Readiness checks of the gateway on this machine; `python -m service health` is one as an exit code."""

import http.client
import sys

from service.settings import Settings

TIMEOUT_S = 5.0


def check(settings: Settings) -> int:
    """Print the response of `/readyz` of the gateway with these settings. Return 0 if it is ready, else 1."""
    try:
        status, body = _get_readiness(settings.host, settings.port)
    except (OSError, http.client.HTTPException) as error:
        print(f"no response from {settings.host}:{settings.port}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    has_failed = status != http.client.OK
    print(body.decode(errors="replace").strip(), file=sys.stderr if has_failed else sys.stdout)
    return int(has_failed)


def is_ready(host: str, port: int) -> bool:
    try:
        return _get_readiness(host, port)[0] == http.client.OK
    except (OSError, http.client.HTTPException):
        return False


def _get_readiness(host: str, port: int) -> tuple[int, bytes]:
    # A connection to the wildcard address 0.0.0.0 goes to loopback.
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        # Always allowed, unlike a name in SOSTENUTO_HOST.
        connection.request("GET", "/readyz", headers={"Host": "localhost"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
