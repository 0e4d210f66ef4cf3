"""Pages for browsers: playground, inspector, training, models, reports, and the OpenAPI document with Swagger UI.

None needs the internet. Pages are static files under a Content-Security-Policy that runs no other scripts: generated
text and URL parameters are never executed.
"""

from pathlib import Path

import flask_swagger_ui  # type: ignore[import-untyped]  # it has no types
from flask import Flask, Response, make_response, redirect, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from service.web.error_handlers import http_error
from service.web.openapi import openapi_document
from service.web.static_files import StaticFiles

# Flask's names of their endpoints, which need no API key.
PAGES = frozenset(
    {"index", "inspector", "train", "models", "report", "page_file", "docs_redirect", "docs", "docs_file", "openapi"}
)
_FILES = StaticFiles(Path(__file__).with_name("static"))
_SWAGGER_UI = StaticFiles(Path(flask_swagger_ui.__file__).with_name("dist"))
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Swagger UI renders inline style attributes.
_SWAGGER_POLICY = _POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")


def register_pages(app: Flask, docs_url: str | None) -> None:
    """Register the routes of the pages, which link to the documentation if it has a URL."""

    def render(template: str, policy: str = _POLICY) -> Response:
        versions = {"static": f"static/{_FILES.version}", "swagger_ui": _SWAGGER_UI.version}
        # Pages link to each other by relative paths, for a proxy that serves the gateway below a path.
        root = "../" * (request.path.count("/") - 1) or "./"
        response = make_response(render_template(template, docs_url=docs_url, root=root, **versions))
        response.headers["Cache-Control"] = "no-cache"
        return _with_policy(response, policy)

    @app.get("/")
    def index() -> ResponseReturnValue:
        """Return the playground."""
        return render("playground.html")

    @app.get("/inspector")
    def inspector() -> ResponseReturnValue:
        """Return the inspector."""
        return render("inspector.html")

    @app.get("/train")
    def train() -> ResponseReturnValue:
        """Return the page that trains."""
        return render("train.html")

    @app.get("/models")
    def models() -> ResponseReturnValue:
        """Return the page of the served models."""
        return render("models.html")

    @app.get("/report")
    def report() -> ResponseReturnValue:
        """Return the page that reports on generated records."""
        return render("report.html")

    @app.get("/static/<path:name>")
    def page_file(name: str) -> ResponseReturnValue:
        """Return a static file of the pages."""
        return _with_policy(_FILES.respond(name))

    @app.get("/docs")
    def docs_redirect() -> ResponseReturnValue:
        """Redirect to the page; Flask's own redirect would not count as public."""
        return redirect("docs/")

    @app.get("/docs/")
    def docs() -> ResponseReturnValue:
        """Return Swagger UI."""
        return render("docs.html", _SWAGGER_POLICY)

    @app.get("/docs/<path:name>")
    def docs_file(name: str) -> ResponseReturnValue:
        """Return a static file of Swagger UI."""
        return _SWAGGER_UI.respond(name)

    @app.errorhandler(404)
    def not_found(error: HTTPException) -> ResponseReturnValue:
        """Return a page with the way back to a browser, and the API's error to a program."""
        body, status, headers = http_error(error)
        if request.accept_mimetypes.best_match(["application/json", "text/html"]) != "text/html":
            return body, status, headers
        response = render("not_found.html")
        response.status_code = status
        return response

    @app.get("/openapi.json")
    def openapi() -> ResponseReturnValue:
        """Return the OpenAPI document."""
        return openapi_document()


def _with_policy(response: Response, policy: str = _POLICY) -> Response:
    response.headers["Content-Security-Policy"] = policy
    return response
