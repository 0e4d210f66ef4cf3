"""The application factory: wiring only."""

import socket
import threading
from functools import partial

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from service import __version__
from service.access.auth import build_authenticator
from service.backends.client import ModelServerClient, backend_tls
from service.backends.replicas import Replicas
from service.engine import Engine
from service.errors import ShuttingDown
from service.generation.resume_tokens import ResumeTokens, StateKeys, key_file
from service.http_server.connection import UPLOAD_PATH
from service.http_server.disconnects import DisconnectWatcher
from service.memory_budget import MemoryBudget
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
from service.web.blueprint import build_blueprint
from service.web.endpoint import ROLES, TRAINING, Services, ShutdownGate
from service.web.error_handlers import register_error_handlers
from service.web.middleware import Middleware
from service.web.pages import register_pages
from service.web.security import allowed_hosts

# Before the worker exits, for the final error events of requests that are still running.
FINAL_EVENTS_S = 1.0
# The worker gives its exit hooks one second (`StreamingWorker.exit_timeout_s`).
LAST_TRACES_S = 0.8


class Gateway(Flask):
    """The Flask application with everything that it runs, and the shutdown hooks that the gunicorn worker calls."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("service", static_folder=None, template_folder="web/templates")
        self._drain_s, self.shutdown_gate = settings.drain_s, ShutdownGate()
        self.metrics, self.tracing = Metrics(__version__), _tracing(settings)
        connect = partial(
            ModelServerClient,
            timeout_s=settings.call_timeout_s,
            max_calls=settings.max_calls,
            tracing=self.tracing,
            tls=backend_tls(settings),
        )
        self.replicas = Replicas(connect, settings.addresses)
        self.scheduler = Scheduler(self.replicas, settings, self.metrics)
        self.admission = AdmissionControl(settings.max_sequences, settings.max_queued_tokens)
        self.model_registry = ModelRegistry(
            settings.models_dir,
            self.replicas,
            poll_s=settings.poll_s,
            max_chunk=settings.max_chunk,
            default_model=settings.default_model,
            precisions=settings.precisions,
            changed=self.metrics.keep,
        )
        self.compiler_pool = CompilerPool(settings, self.metrics)
        self.memory = MemoryBudget(settings.request_memory_bytes)
        self.training = Training.open(settings)
        self.authenticator = build_authenticator(settings)

    def start(self) -> None:
        """Start the threads."""
        self.replicas.start()
        self.scheduler.start()
        self.model_registry.start()

    def refuses_body(self, path: str, authorization: str | None) -> bool:
        """Return whether a request is refused for its API key, so that the worker need not receive its body."""
        return self.authenticator.refuses(authorization, ROLES[TRAINING] if path == UPLOAD_PATH else None)

    def begin_drain(self, seconds_left: float) -> None:
        """Refuse new requests from now on, and end running ones with an error when the drain time is over."""
        self.shutdown_gate.is_draining = True
        error = ShuttingDown("the server was shut down before the request was finished")
        seconds = max(0.0, min(self._drain_s, seconds_left - FINAL_EVENTS_S))
        timer = threading.Timer(seconds, self.scheduler.stop, (error,))
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        """Export the last traces and close the connections, just before the process exits."""
        if self.tracing is not None:
            self.tracing.shutdown(LAST_TRACES_S)
        self.model_registry.close()
        self.replicas.close()
        self.compiler_pool.close()
        if self.training is not None:
            self.training.store.close()


def create_app(settings: Settings, metrics_socket: socket.socket | None = None) -> Gateway:
    """Build the gateway and start its threads; call it in the serving process, after any fork.

    Without a listening socket for them, metrics are collected but not served.
    """
    app = Gateway(settings)
    _configure_flask(app, settings)
    _register(app, settings)
    _watch_state(app)
    if metrics_socket is not None:
        serve_metrics(metrics_socket, app.metrics.registry)
    app.start()
    return app


def _configure_flask(app: Gateway, settings: Settings) -> None:
    if settings.num_proxies:
        # Only the client's address is read from the proxies' headers; without a proxy a client could forge it.
        proxied = ProxyFix(app.wsgi_app, x_for=settings.num_proxies, x_proto=0, x_host=0)
        app.wsgi_app = proxied  # type: ignore[method-assign]
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.json.sort_keys = False  # type: ignore[attr-defined]  # the default provider has it
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    # A path with a double slash is another path; merging would redirect to the Host that the client itself named.
    app.url_map.merge_slashes = False


def _register(app: Gateway, settings: Settings) -> None:
    engine = Engine(
        app.model_registry,
        app.scheduler,
        app.admission,
        app.metrics,
        settings,
        _resume_tokens(settings),
        app.compiler_pool,
        TrainingFilters(settings.models_dir),
    )
    services = Services(
        engine,
        app.model_registry,
        VectorFiles(settings.models_dir),
        app.scheduler,
        app.admission,
        app.replicas,
        app.memory,
        settings,
        DisconnectWatcher().watch,
        app.training,
        Reports(settings),
        app.shutdown_gate,
    )
    app.register_blueprint(build_blueprint(services))
    register_pages(app, settings.docs_url)
    register_error_handlers(app)
    hosts = allowed_hosts(settings)
    middleware = Middleware(
        app.authenticator, app.metrics, app.tracing, hosts, app.memory, log_prompts=settings.log_prompts
    )
    middleware.register(app)


def _watch_state(app: Gateway) -> None:
    """Let the metrics read the state of scheduler, memory and backends at each scrape."""
    metrics, scheduler, replicas = app.metrics, app.scheduler, app.replicas
    metrics.watch(
        loads=lambda: scheduler.loads,
        num_tokens=lambda: app.admission.num_tokens,
        prefix_cache=scheduler.prefix_cache,
        memory=app.memory,
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
    keys = StateKeys.random()
    return ResumeTokens(lambda: keys, settings.state_max_age_s)
