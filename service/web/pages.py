"""What a browser opens: the playground at `/`, the inspector, and the API's description with a page to read and try it.

None needs the internet. Pages are made of files as they are, under a policy by which nothing runs that is not one of
them: whatever a model writes or a link carries is text.
"""

from pathlib import Path

import flask_swagger_ui  # type: ignore[import-untyped]  # it has no types
from flask import Flask, Response, make_response, redirect, render_template, send_from_directory
from flask.typing import ResponseReturnValue

# Endpoints for which no key is asked.
PUBLIC_ENDPOINTS = frozenset(
    {
        *("index", "inspector", "page_file", "docs_redirect", "docs", "docs_file", "openapi"),
        *("v1.health", "v1.healthz", "v1.ping", "v1.readyz", "v1.version"),
    }
)
_FILES = Path(__file__).with_name("static")
_SWAGGER_UI = Path(flask_swagger_ui.__file__).with_name("dist")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Swagger UI has a style attribute in what it renders.
_SWAGGER_POLICY = _POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")


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
    def docs_redirect() -> ResponseReturnValue:
        """Lead to the page; Flask's own redirect would not count as public."""
        return redirect("/docs/")

    @app.get("/docs/")
    def docs() -> ResponseReturnValue:
        """Return the page where the API is read and tried."""
        return _bound(make_response(render_template("docs.html")), _SWAGGER_POLICY)

    @app.get("/docs/<path:name>")
    def docs_file(name: str) -> ResponseReturnValue:
        """Return what Swagger UI is made of."""
        return send_from_directory(_SWAGGER_UI, name)

    @app.get("/openapi.json")
    def openapi() -> ResponseReturnValue:
        """Describe the API."""
        from service.api.openapi import openapi_document  # noqa: PLC0415 - 95 ms of a worker's start

        return openapi_document()


def _page(name: str, start: str) -> Response:
    """Return a page; `start` is the element that a keyboard may skip to."""
    response = make_response(render_template(f"{name.lower()}.html", page=name, start=start))
    response.headers["Cache-Control"] = "no-cache"
    return _bound(response)


def _bound(response: Response, policy: str = _POLICY) -> Response:
    response.headers["Content-Security-Policy"] = policy
    return response
