"""What a browser opens: `/`, the API's description and a page to read and try it, which needs no internet."""

from flask import Flask, redirect
from flask.typing import ResponseReturnValue
from flask_swagger_ui import get_swaggerui_blueprint  # type: ignore[import-untyped]  # it has no types

# Endpoints for which no key is asked.
PUBLIC_ENDPOINTS = frozenset({"index", "docs", "openapi", "swagger_ui.show", "v1.healthz", "v1.readyz"})


def register_pages(app: Flask) -> None:
    """Add the pages."""

    @app.get("/")
    def index() -> ResponseReturnValue:
        """Lead to the page there is."""
        return redirect("/docs/")

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
