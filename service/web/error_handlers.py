"""Error handlers: every error, including Flask's own, as OpenAI's error object."""

import logging
from typing import Any

from flask import Flask, g, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from service.errors import BodyTooLarge, GatewayError, InternalError, InvalidRequest, MethodNotAllowed, NotFound

log = logging.getLogger(__name__)

ErrorResponse = tuple[dict[str, Any], int, dict[str, str]]


def register_error_handlers(app: Flask) -> None:
    """Register the error handlers with an application."""
    app.register_error_handler(GatewayError, error_response)
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(Exception, _unexpected_error)


def error_response(error: GatewayError) -> ErrorResponse:
    """Return body, status and headers, and record the error for the access log, metrics and trace."""
    g.record.record_error(error)
    response = error.body(), error.status, error.headers()
    error.release()
    return response


def http_error(error: HTTPException) -> ErrorResponse:
    """Return an error of Flask's in the form of the API's."""
    if isinstance(error, RequestEntityTooLarge):
        limit = request.max_content_length
        return error_response(
            BodyTooLarge(f"the body must be at most {limit} bytes, got {request.content_length or 'more'}")
        )
    if error.code == 404:
        return error_response(NotFound(f"there is no endpoint {request.path}"))
    if error.code == 405:
        methods = sorted(getattr(error, "valid_methods", None) or ())
        useful = [method for method in methods if method not in ("HEAD", "OPTIONS")]
        message = f"{request.path} accepts only {', '.join(useful)}, got {request.method}"
        body, status, headers = error_response(MethodNotAllowed(message))
        return body, status, {**headers, "Allow": ", ".join(methods)}
    body, _, headers = error_response(InvalidRequest(error.description or error.name))
    return body, error.code or 400, headers


def _unexpected_error(error: Exception) -> ErrorResponse:
    log.error("unexpected error at %r", request.path, exc_info=error)
    return error_response(InternalError("internal error; see the gateway's log"))
