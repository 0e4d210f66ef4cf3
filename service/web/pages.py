"""Pages for browsers: playground, inspector, lesson, training, models, reports, and the API reference by Swagger UI.

None needs the internet. Pages are static files under a Content-Security-Policy that runs no other scripts: generated
text and URL parameters are never executed. Files are compressed, and have a hash in their path, so that browsers cache
them.
"""

import gzip
import hashlib
import mimetypes
import os
from functools import cache, partial
from pathlib import Path

import flask_swagger_ui  # type: ignore[import-untyped]  # it has no types
from flask import Flask, Response, abort, make_response, redirect, render_template, request
from werkzeug.security import safe_join

from service.web.openapi import openapi_document

_YEAR_S = 365 * 24 * 3600
_COMPRESSED_TYPES = frozenset({"text/css", "text/javascript", "application/javascript", "image/svg+xml"})


class StaticFiles:
    """The files of a directory.

    Attributes:
        version: A hash of all names and contents. A path that begins with it may be kept for a year; modules import
            each other by relative paths, and so from the same version.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        digest = hashlib.sha256()
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            digest.update(str(path.relative_to(directory)).encode() + b"\0" + path.read_bytes())
        self.version = digest.hexdigest()[:16]

    def respond(self, name: str) -> Response:
        """Return a file, `name` or `version/name`; gzipped if the browser accepts that, or 304 if it has it."""
        version, _, rest = name.partition("/")
        is_versioned = version == self.version
        path = safe_join(str(self._directory), rest if is_versioned else name)
        # Unlike `Path.is_file`, it returns False for an overlong name.
        if path is None or not os.path.isfile(path):
            abort(404)
        mimetype = mimetypes.guess_type(path)[0] or "application/octet-stream"
        is_compressed = mimetype in _COMPRESSED_TYPES and request.accept_encodings["gzip"] > 0
        response = Response(_gzipped(path) if is_compressed else Path(path).read_bytes(), mimetype=mimetype)
        if mimetype in _COMPRESSED_TYPES:
            response.vary.add("Accept-Encoding")
        if is_compressed:
            response.content_encoding = "gzip"
        # Without a version, the content may change with the next release.
        kept = f"public, max-age={_YEAR_S}, immutable" if is_versioned else "no-cache"
        response.headers["Cache-Control"] = kept
        response.set_etag(f"{self.version}-gzip" if is_compressed else self.version)
        response.make_conditional(request)
        return response


@cache
def _gzipped(path: str) -> bytes:
    return gzip.compress(Path(path).read_bytes(), mtime=0)


# By path: the name of each page and of its template.
_TEMPLATES = {
    "/": "playground",
    "/inspector": "inspector",
    "/train": "train",
    "/models": "models",
    "/learn": "learn",
    "/report": "report",
    "/docs/": "docs",
}
# Flask's names of all endpoints here, which need no API key.
PAGES = frozenset({*_TEMPLATES.values(), "page_file", "docs_redirect", "docs_file", "openapi"})
_FILES = StaticFiles(Path(__file__).with_name("static"))
_SWAGGER_UI = StaticFiles(Path(flask_swagger_ui.__file__).with_name("dist"))
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Swagger UI renders inline style attributes.
_SWAGGER_POLICY = _POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")


def register_pages(app: Flask, docs_url: str | None, *, is_read_only: bool = False) -> None:
    """Register the routes of the pages, which link to the documentation if it has a URL.

    On a server that is read-only, whatever the client, the page of models offers no changes.
    """
    versions = {"static": f"static/{_FILES.version}", "swagger_ui": _SWAGGER_UI.version}
    app.jinja_env.globals.update(docs_url=docs_url, is_read_only=is_read_only, **versions)
    for path, name in _TEMPLATES.items():
        app.add_url_rule(path, name, partial(_render, name))
    app.add_url_rule("/static/<path:name>", "page_file", lambda name: _with_policy(_FILES.respond(name)))
    # Flask's own redirect would not be public.
    app.add_url_rule("/docs", "docs_redirect", lambda: redirect("docs/"))
    app.add_url_rule("/docs/<path:name>", "docs_file", _SWAGGER_UI.respond)
    app.add_url_rule("/openapi.json", "openapi", openapi_document)


def not_found_page() -> Response | None:
    """Return the 404 page if the client is a browser."""
    if request.accept_mimetypes.best_match(["application/json", "text/html"]) != "text/html":
        return None
    response = _render("not_found")
    response.status_code = 404
    return response


def _render(name: str) -> Response:
    # Pages use relative links, for proxies that serve the gateway below a path.
    root = "../" * (request.path.count("/") - 1) or "./"
    response = make_response(render_template(f"{name}.html", root=root))
    response.headers["Cache-Control"] = "no-cache"
    return _with_policy(response, _SWAGGER_POLICY if name == "docs" else _POLICY)


def _with_policy(response: Response, policy: str = _POLICY) -> Response:
    response.headers["Content-Security-Policy"] = policy
    return response
