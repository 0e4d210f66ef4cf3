"""The application factory: wiring only."""

import socket
import threading
from functools import partial

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from service import __version__
from service.access.auth import build_authenticator, is_local
from service.backends.client import ModelServerClient, backend_tls
from service.backends.replicas import Replicas
from service.engine import Engine
from service.errors import ShuttingDown
from service.generation.resume_tokens import ResumeTokens, key_file, state_keys
from service.http_server.connection import UPLOAD_PATH
from service.http_server.disconnects import DisconnectWatcher
from service.memory import MemoryBudget
from service.models.embedding_vectors import VectorFiles
from service.models.registry import ModelRegistry
from service.models.training_filters import TrainingFilters
from service.observability.metrics import Metrics
from service.observability.scrape import serve_metrics
from service.observability.tracing import Tracing
from service.reports import Reports
from service.scheduling.admission import AdmissionControl
from service.scheduling.scheduler import Scheduler
from service.settings import Settings
from service.structured_outputs.compiler_pool import CompilerPool
from service.training import Training
from service.web.endpoint import TAGS, TRAINING, Services, register_endpoints
from service.web.middleware import Middleware
from service.web.pages import register_pages

# Before the worker exits, for the final error events of requests that are still running.
FINAL_EVENTS_S = 1.0
# The worker gives its exit hooks one second (`StreamingWorker.exit_timeout_s`).
LAST_TRACES_S = 0.8


class Gateway(Flask):
    """The Flask application with everything that it runs, and shutdown hooks for the gunicorn worker."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("service", static_folder=None, template_folder="web/templates")
        self.settings, self.metrics, self.tracing = settings, Metrics(__version__), _tracing(settings)
        self._compiler = CompilerPool(settings, self.metrics.compiled)
        self._authenticator = build_authenticator(settings)
        self.services = self._services()
        register_endpoints(self, self.services)
        register_pages(self, settings.docs_url, is_read_only=settings.keys_file is None and not is_local(settings))
        memory = self.services.memory
        Middleware(self._authenticator, self.metrics, self.tracing, memory, settings).register(self)

    def _services(self) -> Services:
        settings, metrics = self.settings, self.metrics
        connect = partial(
            ModelServerClient,
            timeout_s=settings.call_timeout_s,
            max_calls=settings.max_calls,
            tracing=self.tracing,
            credentials=backend_tls(settings),
            certified_name=settings.backend_tls_name,
        )
        replicas = Replicas(connect, settings.addresses)
        registry = ModelRegistry(settings, replicas, metrics.keep)
        scheduler = Scheduler(replicas, settings, metrics)
        admission = AdmissionControl(settings.max_sequences, settings.max_queued_tokens)
        tokens, filters = _resume_tokens(settings), TrainingFilters(settings.models_dir)
        return Services(
            Engine(registry, scheduler, admission, metrics, settings, tokens, self._compiler, filters),
            registry,
            VectorFiles(settings.models_dir),
            scheduler,
            admission,
            replicas,
            MemoryBudget(settings.request_memory_bytes),
            settings,
            DisconnectWatcher().watch,
            Training.open(settings),
            Reports(settings),
        )

    def start(self) -> None:
        self.services.replicas.start()
        self.services.scheduler.start()
        self.services.model_registry.start()

    def refuses_body(self, path: str, authorization: str | None) -> bool:
        """Return whether a request is refused for its API key, so that the worker need not receive the body."""
        return self._authenticator.refuses(authorization, TAGS[TRAINING].role if path == UPLOAD_PATH else None)

    def begin_drain(self, seconds_left: float) -> None:
        """Refuse new requests from now on, and end running ones with an error when the drain time is over."""
        self.services.is_draining = True
        error = ShuttingDown("the server was shut down before the request was finished")
        seconds = max(0.0, min(self.settings.drain_s, seconds_left - FINAL_EVENTS_S))
        for stop in (self.services.scheduler.stop, self.services.reports.stop):
            timer = threading.Timer(seconds, stop, (error,))
            timer.daemon = True
            timer.start()

    def close(self) -> None:
        """Export the last traces and close the connections, just before the process exits."""
        if self.tracing is not None:
            self.tracing.shutdown(LAST_TRACES_S)
        self.services.model_registry.close()
        self.services.replicas.close()
        self._compiler.close()
        if self.services.training is not None:
            self.services.training.store.close()


def create_app(settings: Settings, metrics_socket: socket.socket | None = None) -> Gateway:
    """Build the gateway and start its threads; call it in the serving process, after any fork.

    Without a listening socket for them, metrics are collected but not served.
    """
    app = Gateway(settings)
    _configure_flask(app, settings)
    _watch_state(app.metrics, app.services)
    if metrics_socket is not None:
        serve_metrics(metrics_socket, app.metrics.registry)
    app.start()
    return app


def _configure_flask(app: Gateway, settings: Settings) -> None:
    if settings.num_proxies:
        # Only the client's address is taken from the proxies' headers; without a proxy a client could forge it.
        proxied = ProxyFix(app.wsgi_app, x_for=settings.num_proxies, x_proto=0, x_host=0)
        app.wsgi_app = proxied  # type: ignore[method-assign]
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.json.sort_keys = False  # type: ignore[attr-defined]  # the default provider has it
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    # A path with a double slash is another path; merging would redirect to the Host that the client named.
    app.url_map.merge_slashes = False


def _watch_state(metrics: Metrics, services: Services) -> None:
    """Let the metrics read the state of scheduler, memory and backends at each scrape."""
    scheduler, replicas = services.scheduler, services.replicas
    metrics.watch(
        loads=lambda: scheduler.loads,
        num_tokens=lambda: services.admission.num_tokens,
        prefix_cache=scheduler.prefix_cache,
        memory=services.memory,
        backends=lambda: [
            (each.address, each.ejected_because is None, each.drift.seconds()) for each in replicas.all()
        ],
        rejections=lambda: replicas.num_rejected,
    )


def _tracing(settings: Settings) -> Tracing | None:
    if settings.traces_endpoint is None:
        return None
    return Tracing.to(settings.traces_endpoint, ratio=settings.traces_ratio, version=__version__)


def _resume_tokens(settings: Settings) -> ResumeTokens:
    if settings.state_key_file is not None:
        return ResumeTokens(key_file(settings.state_key_file).content, settings.state_max_age_s)
    keys = state_keys()
    return ResumeTokens(lambda: keys, settings.state_max_age_s)
