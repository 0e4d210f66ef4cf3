"""`python -m service serve`: the gateway under gunicorn.

One worker process, so that one scheduler sees all rows, and a thread for every request that may be accepted.
"""

import math
import socket
import sys
from typing import Any

from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]  # gunicorn has no types of its own

from service.listening import listen
from service.settings import Settings

# Threads for requests that are refused at once, for /healthz and the like.
SPARE_THREADS = 32
# Connections that the kernel holds until they are accepted; clients that find it full hang.
BACKLOG = 2048
# For the last words of texts that outlast the drain, and for the worker to end (StreamingWorker.exit_margin_s).
AFTER_DRAIN_S = 4


class _Server(BaseApplication):  # type: ignore[misc]
    def __init__(self, options: dict[str, Any], settings: Settings) -> None:
        self._options, self._settings = options, settings
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Build the application, in the worker."""
        from service.app import create_app  # noqa: PLC0415 - the master must start no thread

        return create_app(self._settings)


def gunicorn_options(settings: Settings, listener: socket.socket) -> dict[str, Any]:
    """Return gunicorn's settings, each with its reason."""
    threads = settings.max_running + settings.max_queued + SPARE_THREADS
    return {
        # Bound here, or gunicorn would try a port that is in use for five seconds before it says so. It takes the
        # descriptor over.
        "bind": f"fd://{listener.detach()}",
        "workers": 1,
        "worker_class": "service.worker.StreamingWorker",
        # Each accepted text holds a thread while it runs or waits; threads are made when they are needed.
        "threads": threads,
        # Connections beyond the threads: kept alive, or about to be answered 429.
        "worker_connections": 2 * threads,
        "keepalive": 15,
        # When the arbiter kills: texts have `drain_s`, and then the worker needs a moment for the rest.
        "graceful_timeout": math.ceil(settings.drain_s + AFTER_DRAIN_S),
        # The worker's heartbeat comes from its accept thread, which no request can hold up.
        "timeout": 30,
        "accesslog": None,
        "errorlog": "-",
        "loglevel": "warning",
        "proc_name": "ostinato-gateway",
        # gunicorn 27 opens a control socket in the working directory unless told not to.
        "control_socket_disable": True,
    }


def serve(settings: Settings) -> int:
    """Run until a signal ends it. Returns the exit code."""
    try:
        listener = listen(settings.host, settings.port, BACKLOG)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"gateway at http://{settings.host}:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
    try:
        _Server(gunicorn_options(settings, listener), settings).run()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0
