"""The whole HTTP side on a fake backend."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from flask import Flask
from werkzeug.test import EnvironBuilder

from service.access.auth import Authenticator
from service.access.keys import KeyLimits
from service.access.ratelimits import RateLimiter
from service.memory import MemoryBudget
from service.models.embedding_vectors import VectorFiles
from service.observability.metrics import Metrics
from service.reports import Reports
from service.settings import Settings
from service.web.endpoint import Services, register_endpoints
from service.web.middleware import Middleware
from tests.fakes import FakeBackend
from tests.unit.service.engines import Service


class Unmoved:
    """Ignores every event, as the scheduler's observer and as a request's listener."""

    def __getattr__(self, name):
        return lambda *_, **__: None


class Site:
    """A Flask application and the services behind it.

    Attributes:
        client: Flask's test client.
        memory: The memory budget of requests.
        parts: The collaborators of the views.
    """

    def __init__(self, limits, backend, memory_bytes, models_dir=None, *, log_prompts=False, **queue):
        self.service = Service(backend, **queue)
        self.service.scheduler._observer = self.service.engine._metrics = Unmoved()
        models = self.service.engine._model_registry
        self.memory = MemoryBudget(memory_bytes)
        app = Flask("site")
        app.config["MAX_CONTENT_LENGTH"] = 4 * 2**20
        unused, vectors = [None] * 3, VectorFiles(models_dir)
        settings = Settings(log_prompts=log_prompts)
        others = self.memory, settings, lambda *_: nullcontext(), None, Reports(settings)
        self.parts = Services(self.service.engine, models, vectors, *unused, *others)
        register_endpoints(app, self.parts)
        access = Authenticator(None, RateLimiter(), limits)
        Middleware(access, Metrics("test"), None, self.memory, settings).register(app)
        self._app, self.client = app, app.test_client()

    def post(self, path="/v1/completions", **fields):
        return self.client.post(path, json={"model": "characters", **fields}, buffered=True)

    def send(self, body, path="/v1/completions"):
        """Call the application as a server does; return status and body. Flask's client makes reference cycles."""
        environ, status = EnvironBuilder(path=path, method="POST", data=body).get_environ(), []
        parts = self._app(environ, lambda given, _: status.append(int(given[:3])))
        try:
            return status[0], b"".join(parts)
        finally:
            parts.close()


@pytest.fixture
def make_site(monkeypatch):
    """Start sites with given limits, and stop their schedulers after the test. Rate limits see no time pass."""
    monkeypatch.setattr("limits.storage.memory.time", SimpleNamespace(time=lambda: 1_800_000_000.0))
    made = []

    def make(limits=None, backend=None, memory_bytes=64 * 2**20, **queue):
        made.append(Site(limits or KeyLimits(), backend or FakeBackend(), memory_bytes, **queue))
        return made[-1]

    yield make
    for site in made:
        site.service.scheduler.stop()


@pytest.fixture
def site(make_site):
    return make_site()
