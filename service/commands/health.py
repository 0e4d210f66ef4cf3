"""`python -m service health`: whether the gateway on this machine is ready, as an exit code for health checks."""

import http.client
import sys

from service.settings import Settings

TIMEOUT_S = 5.0


def check(settings: Settings) -> int:
    """Ask `/readyz` of the gateway with these settings. Returns 0 if a model answers, 1 with the reason if not."""
    # An address that stands for all of this machine's, 0.0.0.0, is connected to as the loopback.
    connection = http.client.HTTPConnection(settings.host, settings.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        answer = response.read().decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer from {settings.host}:{settings.port}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    print(answer, file=sys.stdout if response.status == http.client.OK else sys.stderr)
    return 0 if response.status == http.client.OK else 1
