"""What a browser opens: the playground at `/`, the inspector, and the API's description with a page to read and try it.

None needs the internet. Pages are made of files as they are, under a policy by which nothing runs that is not one of
them: whatever a model writes or a link carries is text.
"""

from pathlib import Path

from flask import Flask, Response, make_response, redirect, render_template, send_from_directory
from flask.typing import ResponseReturnValue
from flask_swagger_ui import get_swaggerui_blueprint  # type: ignore[import-untyped]  # it has no types

# Endpoints for which no key is asked.
PUBLIC_ENDPOINTS = frozenset(
    {"index", "inspector", "page_file", "docs", "openapi", "swagger_ui.show", "v1.healthz", "v1.readyz"}
)
_FILES = Path(__file__).with_name("static")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def register_pages(app: Flask) -> None:
    """Add the pages."""

    @app.get("/")
    def index() -> ResponseReturnValue:
        """Return the page where texts are written."""
        return _page("Playground", start="prompt")

    @app.get("/inspector")
    def inspector() -> ResponseReturnValue:
        """Return the page where a model is looked into."""
        return _page("Inspector", start="text")

    @app.get("/static/<path:name>")
    def page_file(name: str) -> ResponseReturnValue:
        """Return what pages are made of."""
        return _bound(send_from_directory(_FILES, name))

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


def _page(name: str, start: str) -> Response:
    """Return a page; `start` is the element that a keyboard may skip to."""
    response = make_response(render_template(f"{name.lower()}.html", page=name, start=start))
    response.headers["Cache-Control"] = "no-cache"
    return _bound(response)


def _bound(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response
