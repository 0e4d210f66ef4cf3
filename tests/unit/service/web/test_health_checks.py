"""Health checks, which the worker serves by threads of their own."""

from dataclasses import fields
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from flask import Flask

from service.errors import ModelLoading
from service.http_server.worker import HEALTH_PATHS
from service.web.endpoint import Services, register_endpoints
from service.web.health import readyz


def test_the_workers_paths_of_health_checks_are_endpoints():
    """The worker would not notice that one was renamed."""
    app = Flask("routes")
    register_endpoints(app, Services(*[None] * len(fields(Services))))
    assert {rule.rule for rule in app.url_map.iter_rules() if "GET" in rule.methods} >= HEALTH_PATHS


@pytest.mark.parametrize(("keys_file", "names"), [(None, {"models": ["demo"]}), ("keys.json", {})])
def test_readiness_names_the_models_only_where_no_keys_are_required(keys_file, names):
    registry, settings = SimpleNamespace(ready_models=lambda: ["demo"]), SimpleNamespace(keys_file=keys_file)
    services = SimpleNamespace(settings=settings, refuse_if_draining=lambda: None, model_registry=registry)
    assert readyz(services) == {"status": "ready", "num_models": 1, **names}
    registry.ready_models = Mock(side_effect=ModelLoading("models are being loaded: demo"))
    with pytest.raises(ModelLoading) as caught:
        readyz(services)
    assert ("demo" in str(caught.value)) == bool(names)
