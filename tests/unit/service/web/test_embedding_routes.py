"""The embedding endpoints: what they charge and when, clients that left, and draining."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from flask import Flask, g

from contract.card import GeneratorCard
from service.access.ratelimits import RateLimiter
from service.context import RequestContext
from service.models.embedding_vectors import VectorFiles
from service.models.registry import ServedModel
from service.params import ModelVersion
from service.scheduling.batching import BatchLimits
from service.web.access_log import RequestLog
from service.web.endpoints import ShutdownGate
from service.web.error_handlers import register_error_handlers
from service.web.routes import build_routes
from tests.registries import write_vectors
from tests.unit.contract.test_card import FIELDS
from tests.unit.service.engines import CHARACTERS

NUM_TOKENS = len(CHARACTERS.tokens)


class Site:
    """The endpoints over one model whose embedding is on disk."""

    def __init__(self, models_dir):
        write_vectors(models_dir, np.random.default_rng(0).normal(size=(NUM_TOKENS, 4)))
        card = GeneratorCard(**{**FIELDS, "name": "demo", "weights_sha256": "a" * 64})
        model = ServedModel(ModelVersion("demo", 1), card, CHARACTERS, BatchLimits((8,), 8, 16), "fp")
        self.charged, self.drain, self.vectors = [], ShutdownGate(), VectorFiles(models_dir)
        self.watch = lambda sock, on_gone: nullcontext()
        self.charge = self.charged.append
        app = Flask(__name__)
        app.before_request(self._before)
        model_registry = SimpleNamespace(find=lambda name: model)
        parts = SimpleNamespace(
            model_registry=model_registry, vectors=self.vectors, shutdown_gate=self.drain, watch_socket=self._watch
        )
        app.register_blueprint(build_routes(parts))
        register_error_handlers(app)
        self._client = app.test_client()

    def _before(self):
        from flask import request

        g.record, g.context = RequestLog(request, prompts=False), RequestContext(charge=self._charge)

    def _charge(self, num_tokens, *, param):
        self.param = param
        return self.charge(num_tokens)

    def _watch(self, sock, on_gone):
        return self.watch(sock, on_gone)

    def get(self, rest):
        response = self._client.get(f"/v1/models/demo/embedding/{rest}")
        return response.status_code, response.json


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@pytest.mark.parametrize(
    ("rest", "num_tokens"),
    [("map?count=3", 3), ("map", NUM_TOKENS), ("neighbors?token=a", 10), ("neighbors?token=a&count=2", 2)],
)
def test_an_embedding_is_charged_by_the_tokens_of_the_response(site, rest, num_tokens):
    """That is `count`, but at most the vocabulary. A cached result is charged again."""
    for _ in range(2):
        assert site.get(rest)[0] == 200
    assert site.charged == [num_tokens, num_tokens]


def test_vectors_are_not_read_before_the_charge(site, monkeypatch):
    """A request that is refused costs no work; the error names `count`, the field that the request has."""

    def refuse(num_tokens):
        RateLimiter().charge("a", "tokens", 2, num_tokens, param=site.param)

    site.charge = refuse
    monkeypatch.setattr(VectorFiles, "_read", lambda *_: pytest.fail("read"))
    status, answer = site.get("map?count=3")
    assert (status, answer["error"]["param"]) == (400, "count")
    site.charge = site.charged.append
    assert site.get("map?count=x")[0] == 400
    assert site.charged == []


@pytest.mark.parametrize("rest", ["map", "neighbors?token=a"])
def test_vectors_are_not_read_for_a_client_that_has_left(site, rest, monkeypatch):

    @contextmanager
    def watch(_sock, on_gone):
        on_gone()
        yield

    site.watch = watch
    monkeypatch.setattr(VectorFiles, "_read", lambda *_: pytest.fail("read"))
    status, answer = site.get(rest)
    assert (status, answer["error"]["code"]) == (499, "client_gone")


@pytest.mark.parametrize("rest", ["map", "neighbors?token=a"])
def test_a_draining_server_computes_no_embeddings(site, rest):
    site.drain.is_draining = True
    status, answer = site.get(rest)
    assert (status, answer["error"]["code"]) == (503, "shutting_down")
    assert site.charged == []
