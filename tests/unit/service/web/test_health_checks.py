"""Health checks, which the worker serves by threads of their own."""

from dataclasses import fields

from flask import Flask

from service.http_server.worker import HEALTH_PATHS
from service.web.endpoints import Services
from service.web.routes import build_routes


def test_the_workers_paths_of_health_checks_are_endpoints():
    """The worker would not notice that one was renamed."""
    app = Flask("routes")
    app.register_blueprint(build_routes(Services(*[None] * len(fields(Services)))))
    assert {rule.rule for rule in app.url_map.iter_rules() if "GET" in rule.methods} >= HEALTH_PATHS
