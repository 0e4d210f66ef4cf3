"""The routes of the API, from the declarations of its endpoints."""

from functools import partial
from typing import Any

from flask import Blueprint, g, request

from service.errors import InvalidRequest, MissingRole, NotFound
from service.web import completions, files, fine_tuning, health, hidden_states, model_changes, models, reports  # noqa: F401 - they declare the endpoints
from service.web.endpoint import ENDPOINTS, Endpoint, Services

__all__ = ["ENDPOINTS", "build_blueprint", "public_endpoints"]
_BLUEPRINT = "api"


def build_blueprint(services: Services) -> Blueprint:
    """Return a blueprint with the route of every endpoint."""
    routes = Blueprint(_BLUEPRINT, __name__)
    for endpoint in ENDPOINTS:
        rule = endpoint.path.replace("{", "<").replace("}", ">")
        view = partial(_respond, endpoint, services)
        routes.add_url_rule(rule, endpoint.view.__name__, view, methods=[endpoint.method])
    return routes


def _respond(endpoint: Endpoint, services: Services, **in_path: str) -> Any:
    """Call a view with the parameters of path and query."""
    if not endpoint.public and not {*endpoint.roles} & {*g.context.roles}:
        required, own = " or ".join(endpoint.roles), ", ".join(g.context.roles)
        raise MissingRole(f"the API key must have the role {required}, got {own}")
    # PostgreSQL has no text with it.
    if "\0" in request.path:
        raise NotFound("there is no path with the character NUL")
    if any("\0" in text for text in (*request.args, *request.args.values())):
        raise InvalidRequest("the query must not have the character NUL")
    in_query = {parameter.name: parameter.read(request.args) for parameter in endpoint.query}
    return endpoint.view(services, **in_path, **in_query)


def public_endpoints() -> frozenset[str]:
    """Return Flask's names of the endpoints that need no API key."""
    return frozenset(f"{_BLUEPRINT}.{endpoint.view.__name__}" for endpoint in ENDPOINTS if endpoint.public)
