"""What a browser opens: the playground at `/`, and the API's description with a page to read and try it.

Neither needs the internet. The playground is files as they are, under a policy by which nothing runs that is not one of
them: whatever a model writes or a link carries is text.
"""

from pathlib import Path

from flask import Flask, Response, redirect, send_from_directory
from flask.typing import ResponseReturnValue
from flask_swagger_ui import get_swaggerui_blueprint  # type: ignore[import-untyped]  # it has no types

# Endpoints for which no key is asked.
PUBLIC_ENDPOINTS = frozenset({"index", "page_file", "docs", "openapi", "swagger_ui.show", "v1.healthz", "v1.readyz"})
_FILES = Path(__file__).with_name("static")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def register_pages(app: Flask) -> None:
    """Add the pages."""

    @app.get("/")
    def index() -> ResponseReturnValue:
        """Return the playground."""
        return _file("index.html")

    @app.get("/static/<path:name>")
    def page_file(name: str) -> ResponseReturnValue:
        """Return what the playground is made of."""
        return _file(name)

    @app.get("/docs")
    def docs() -> ResponseReturnValue:
        """Lead to the same; Flask's own redirect would not count as public."""
        return redirect("/docs/")

    @app.get("/openapi.json")
    def openapi() -> ResponseReturnValue:
        """Describe the API."""
        from service.api.openapi import openapi_document  # noqa: PLC0415 - 95 ms of a worker's start

        return openapi_document()

    # Swagger UI would ask a server of its own whether the description is valid.
    config = {"app_name": "Ostinato", "validatorUrl": None}
    app.register_blueprint(get_swaggerui_blueprint("/docs", "/openapi.json", config))


def _file(name: str) -> Response:
    response = send_from_directory(_FILES, name)
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response
