"""The gateway under gunicorn.

One worker process, so that one scheduler sees all sequences, and a thread for every request that may be accepted.
"""

import ctypes
import logging
import math
import socket
from dataclasses import replace
from typing import Any

# gunicorn has no types of its own.
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]

from service.access.auth import check_authenticator
from service.access.keys import warn_if_exposed
from service.backends.client import backend_tls
from service.errors import ConfigurationError
from service.generation.resume_tokens import read_state_keys
from service.http_server.addresses import is_loopback, listen
from service.http_server.worker import StreamingWorker
from service.observability.logs import configure_logging
from service.settings import Settings, unknown_settings
from service.training import check_training

log = logging.getLogger(__name__)

# Threads for requests that are refused at once, and for endpoints such as /healthz.
SPARE_THREADS = 32
# Connections that the kernel queues until they are accepted; clients hang while it is full.
BACKLOG = 2048
# For the final error events of requests that outlast the drain, and for the worker to exit
# (StreamingWorker.exit_margin_s).
AFTER_DRAIN_S = 4

# From malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
# Threads nearly always hold the GIL when they allocate: more arenas save no time, and each keeps its freed memory.
_NUM_ARENAS = 2
# Larger blocks are mapped one by one and unmapped when freed. Setting the threshold stops it from growing with the
# largest block ever freed, up to 32 MB.
_MMAP_BYTES = 256 * 2**10
_TRIM_BYTES = 2**20


class _Server(BaseApplication):  # type: ignore[misc]
    def __init__(self, options: dict[str, Any], settings: Settings, metrics_socket: socket.socket) -> None:
        self._options, self._settings, self._metrics_socket = options, settings, metrics_socket
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        from service.app import create_app  # noqa: PLC0415 - the master must start no thread

        return create_app(self._settings, self._metrics_socket)

    def run(self) -> None:
        _Arbiter(self).run()


class _Arbiter(Arbiter):  # type: ignore[misc]
    """gunicorn's arbiter without the signals that start another master or worker, which could not share a scheduler."""

    def handle_usr2(self) -> None:
        """Refuse gunicorn's upgrade in place: as PID 1 of a container, the old master could not end after it."""
        self.log.warning("SIGUSR2 ignored: to upgrade, start another gateway and end this one with SIGTERM")

    def handle_ttin(self) -> None:
        self.log.warning("SIGTTIN ignored: a gateway has one worker process; start more gateways instead")


def gunicorn_options(settings: Settings, listener: socket.socket) -> dict[str, Any]:
    """Return gunicorn's settings, each with its reason."""
    threads = settings.max_running + settings.max_queued + SPARE_THREADS
    return {
        # Bound by the caller: gunicorn would retry a port in use for five seconds before reporting it. It takes over
        # the descriptor.
        "bind": f"fd://{listener.detach()}",
        "workers": 1,
        "worker_class": _worker_class(settings),
        # At most one thread per accepted sequence, while it waits or runs; threads are started on demand.
        "threads": threads,
        # Connections beyond the threads: kept alive, or about to get 429.
        "worker_connections": 2 * threads,
        "keepalive": 15,
        # After which the arbiter kills: requests have `drain_s`, then the worker needs a moment to exit.
        "graceful_timeout": math.ceil(settings.drain_s + AFTER_DRAIN_S),
        # The worker's heartbeat comes from its accept thread, which no request can block.
        "timeout": 30,
        "accesslog": None,
        "logger_class": "service.observability.logs.GunicornLogger",
        "loglevel": "warning",
        "worker_exit": _close,
        # gunicorn lets clients on this machine set SCRIPT_NAME by a header, which changes every path.
        "forwarder_headers": "",
        "proc_name": "sostenuto-gateway",
        # gunicorn 27 opens a control socket in the working directory unless told not to.
        "control_socket_disable": True,
    }


def _worker_class(settings: Settings) -> type[StreamingWorker]:
    """Return the worker class with the configured limits; behind proxies there is no limit per client address."""
    limits = replace(
        StreamingWorker.limits,
        max_body_bytes=settings.max_body_bytes,
        max_upload_bytes=settings.max_upload_bytes,
        max_client_connections=None if settings.num_proxies else settings.max_client_connections,
    )
    return type("GatewayWorker", (StreamingWorker,), {"limits": limits})


def _close(server: object, worker: Any) -> None:  # noqa: ARG001 - gunicorn checks the number of a hook's arguments
    """Close the application of a worker that is about to exit; a worker that never booted has none."""
    getattr(getattr(worker, "wsgi", None), "close", lambda: None)()


def return_freed_memory() -> None:
    """Make the C library return freed memory to the system, here and in forked processes.

    glibc otherwise keeps it in one arena per thread: 32 threads that allocated and freed 256 MB leave 266 MiB resident
    without it, and 10 MiB with it (measured). With musl nothing is changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *_: None)
    mallopt(_M_ARENA_MAX, _NUM_ARENAS)
    mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)


def serve(settings: Settings) -> int:
    """Serve until a signal stops it. Return the exit code."""
    return_freed_memory()
    configure_logging(format=settings.log_format, level=settings.log_level)
    # Errors that would stop the worker are detected here, where they are reported in one line.
    check_authenticator(settings)
    if settings.state_key_file is not None:
        read_state_keys(settings.state_key_file)
    backend_tls(settings)
    check_training(settings)
    try:
        listener = listen(settings.host, settings.port, BACKLOG)
        port = listener.getsockname()[1]
        metrics_socket = listen(settings.metrics_host, settings.metrics_port_beside(port))
    except OSError as error:
        raise ConfigurationError(str(error)) from error
    for path in filter(None, (settings.keys_file, settings.state_key_file)):
        warn_if_exposed(path)
    for line in unknown_settings():
        log.warning(line)
    log.info("gateway at http://%s:%d", settings.host, port)
    log.info("metrics at http://%s:%d/metrics", settings.metrics_host, metrics_socket.getsockname()[1])
    if settings.keys_file is None and not is_loopback(settings.client_host):
        log.warning(
            "NO API KEYS: anyone who can connect to %s:%d can use this server; set SOSTENUTO_KEYS_FILE (sostenuto "
            "keys add), or put an authenticating proxy in front",
            settings.client_host,
            port,
        )
    try:
        _Server(gunicorn_options(settings, listener), settings, metrics_socket).run()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0
