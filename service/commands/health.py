"""`python -m service health`: a readiness check of the gateway on this machine, as an exit code."""

import http.client
import sys

from service.settings import Settings

TIMEOUT_S = 5.0


def check(settings: Settings) -> int:
    """Print the response of `/readyz` of the gateway with these settings. Return 0 if it is ready, else 1."""
    try:
        status, body = get_readiness(settings.host, settings.port)
    except (OSError, http.client.HTTPException) as error:
        print(f"no response from {settings.host}:{settings.port}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    is_ready = status == http.client.OK
    print(body.decode(errors="replace").strip(), file=sys.stdout if is_ready else sys.stderr)
    return 0 if is_ready else 1


def get_readiness(host: str, port: int) -> tuple[int, bytes]:
    """Return status and body of `/readyz`.

    Raises:
        OSError: no connection, or no response in time.
        http.client.HTTPException: the response is not HTTP.
    """
    # A connection to the wildcard address 0.0.0.0 goes to loopback.
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
