"""The application: wiring alone."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from flask import Flask

from service.backend import GrpcBackend
from service.catalog import Catalog
from service.disconnects import DisconnectWatcher
from service.engine import Engine
from service.errors import ShuttingDown
from service.routes import Drain, build_routes
from service.scheduler import Limits, Scheduler
from service.settings import Settings

# Before the worker's end, for the last words of what is still running then.
LAST_WORDS_S = 1.0


class Gateway(Flask):
    """Flask, and what the gunicorn worker tells it about the end."""

    def __init__(self, scheduler: Scheduler, drain: Drain, drain_s: float) -> None:
        super().__init__("service", static_folder=None)
        self._scheduler, self._drain, self._drain_s = scheduler, drain, drain_s

    def begin_drain(self, seconds_left: float) -> None:
        """Refuse new requests from now on, and end the running ones with an error when their time is over."""
        self._drain.begun = True
        timer = threading.Timer(max(0.0, min(self._drain_s, seconds_left - LAST_WORDS_S)), self._end_all)
        timer.daemon = True
        timer.start()

    def _end_all(self) -> None:
        self._scheduler.stop(ShuttingDown("the server was shut down before the text was finished"))


def create_app(settings: Settings) -> Gateway:
    """Build the gateway and start its threads: call this in the process that serves, after any fork."""
    backend = GrpcBackend(settings.backends, settings.call_timeout_s, settings.max_calls)
    limits = Limits(settings.max_running, settings.max_queued, settings.max_calls, settings.backend_grace_s)
    scheduler = Scheduler(backend, limits)
    catalog = Catalog(settings.models_dir, backend, poll_s=settings.poll_s, max_chunk=settings.max_chunk)
    engine = Engine(catalog, scheduler, max_prompt_tokens=settings.max_prompt_tokens)
    watcher = DisconnectWatcher()

    def watch(sock: Any, gone: Callable[[], None]) -> AbstractContextManager[Any]:
        # Under Flask's test client there is no socket, and nobody who could leave.
        return nullcontext() if sock is None else watcher.watch(sock, gone)

    drain = Drain()
    app = Gateway(scheduler, drain, settings.drain_s)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.json.sort_keys = False  # type: ignore[attr-defined]  # the default provider has it
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    app.register_blueprint(build_routes(engine, catalog, watch, drain, settings))
    scheduler.start()
    catalog.start()
    return app
