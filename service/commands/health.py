"""`python -m service health`: a readiness check of the gateway on this machine, as an exit code."""

import http.client
import sys

from service.settings import Settings

TIMEOUT_S = 5.0


def check(settings: Settings) -> int:
    """Print the response of `/readyz` of the gateway with these settings. Return 0 if it is ready, else 1."""
    # A connection to the wildcard address 0.0.0.0 goes to loopback.
    connection = http.client.HTTPConnection(settings.host, settings.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body = response.read().decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        print(f"no response from {settings.host}:{settings.port}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    print(body, file=sys.stdout if response.status == http.client.OK else sys.stderr)
    return 0 if response.status == http.client.OK else 1
