"""Conversion of responses and failed requests: to JSON, or to an error with advice."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Mapping
from typing import Any

import requests
from urllib3.exceptions import (  # requests needs urllib3 too, and hides these in a ConnectionError
    HTTPError,
    NewConnectionError,
    ReadTimeoutError,
)

from sostenuto import _errors as errors
from sostenuto._results import Choice, Generation, RawResponse
from sostenuto._retries import FIRST_SERVER_ERROR, asked_wait_s, is_retryable
from sostenuto._settings import Timeouts

_FIRST_ERROR = 400  # below it a status is a redirect

# OpenSSL's messages for a response that is not TLS, the start of a TLS alert instead of a status line, and what nginx,
# Go servers and Apache respond to plain HTTP on a TLS port.
_HANDSHAKE_TIMEOUT = "handshake operation timed out"
_NO_TLS = re.compile("WRONG_VERSION_NUMBER|UNKNOWN_PROTOCOL|RECORD_LAYER_FAILURE|PACKET_LENGTH_TOO_LONG")
_TLS_ALERT = "\x15\x03"
_CLOSED = re.compile("closed connection without response|Connection reset by peer")
_NEEDS_TLS = re.compile(
    b"plain HTTP request was sent to HTTPS port|sent an HTTP request to an HTTPS server|plain HTTP to an SSL-enabled"
)


def json_object(response: requests.Response) -> dict[str, Any]:
    """Return the JSON object in a successful response; raise UnexpectedResponse if it is something else."""
    document = json_or_none(response.content)
    if isinstance(document, dict):
        return document
    raise unexpected(response, "a JSON object")


def raw_json(response: requests.Response) -> RawResponse:
    """Return a successful response whose content type is JSON, without parsing it.

    Another type is an UnexpectedResponse, and retryable: a proxy may respond for a server that restarts.
    """
    if "json" in response.headers.get("content-type", ""):
        return RawResponse(response.status_code, _request_id(response.headers), response.content)
    error = unexpected(response, "JSON")
    error.retryable = True
    raise error


def unexpected(response: requests.Response, expected: str) -> errors.UnexpectedResponse:
    """Return the error for a response that is not from this API."""
    got = response.headers.get("content-type", "").partition(";")[0] or "no content type"
    return errors.UnexpectedResponse(
        f"{response.url} returned {response.status_code} with {got}, not {expected}: "
        "check that base_url is a Sostenuto server"
    )


def refusal(response: requests.Response) -> errors.SostenutoError:
    """Return the error for a response with a status of 300 or more."""
    status, headers, url = response.status_code, response.headers, response.url
    if status < _FIRST_ERROR:
        target = headers.get("location", "another address")
        return errors.UnexpectedResponse(f"{url} redirects to {target}: set base_url to that URL")
    if _NEEDS_TLS.search(response.content):
        return errors.WrongScheme(f"{url} speaks TLS: is it https://?")
    body = json_or_none(response.content)
    value = body.get("error") if isinstance(body, dict) else None
    fields = value if isinstance(value, dict) else {"message": value}
    fallback = errors.ServerError if status >= FIRST_SERVER_ERROR else errors.APIError
    error_class = errors.BY_CODE.get(str(fields.get("code")), errors.BY_STATUS.get(status, fallback))
    error = _api_error(error_class, {"message": response.reason, **_present(fields)}, headers, status)
    error.choices, error.content = _choices(body), response.content
    return error


def stream_error(error: Any, headers: Mapping[str, str]) -> errors.APIError:
    """Return the error for an `{"error": …}` event of a stream; `headers` are the response headers of the stream."""
    fields = _present(error) if isinstance(error, dict) else {"message": error}
    code = str(fields.get("code", ""))
    status = int(code) if re.fullmatch("[45][0-9][0-9]", code) else None  # some servers put the status there
    headers = {"x-request-id": headers.get("x-request-id", "")}  # the others describe the start of the stream
    by_type = errors.BY_TYPE.get(str(fields.get("type")), errors.ServerError)
    return _api_error(errors.BY_CODE.get(code, errors.BY_STATUS.get(status or 0, by_type)), fields, headers, status)


def failure(error: Exception, url: str, timeout: Timeouts) -> errors.SostenutoError:
    """Return the error for a request without a response, or with an incomplete one."""
    connect_s, read_s = timeout
    if wrong_scheme := _wrong_scheme(reason(error), url, connect_s):
        return wrong_scheme
    if is_read_timeout(error):
        return errors.Timeout(f"{url} sent nothing for {read_s} s: raise timeout, request fewer tokens, or stream")
    has_no_file = not isinstance(error, (requests.RequestException, HTTPError))
    if has_no_file or isinstance(error, (ValueError, requests.exceptions.InvalidJSONError)):
        certificates = "check REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE or the session's certificates"
        advice = certificates if has_no_file else "correct its values"
        return errors.InvalidArgument(f"the request to {url} cannot be sent ({reason(error)}): {advice}")
    if isinstance(error, requests.ConnectTimeout):
        return _not_connected(f"{url} did not accept a connection within {connect_s} s: check base_url")
    if isinstance(error, requests.exceptions.ProxyError):
        return errors.ConnectionFailed(
            f"no response from {url} through the proxy that the environment names ({reason(error)}): check HTTP_PROXY, "
            "HTTPS_PROXY and NO_PROXY"
        )
    why = "its host no longer responds" if is_lost_host(error) else reason(error)
    # Many servers close a TLS connection that begins with plain HTTP.
    scheme = " (is it https://?)" if url.startswith("http://") and _CLOSED.search(why) else ""
    line = f"no response from {url} ({why}): check base_url{scheme}, and that the server is running"
    is_refused = any(isinstance(getattr(arg, "reason", None), NewConnectionError) for arg in error.args)
    return _not_connected(line) if is_refused else errors.ConnectionFailed(line)


def _not_connected(line: str) -> errors.ConnectionFailed:
    error = errors.ConnectionFailed(line)
    error.was_connected = False
    return error


def _wrong_scheme(why: str, url: str, connect_s: float | None) -> errors.SostenutoError | None:
    """Return the error for a server that speaks TLS but the URL does not, or the reverse; None for other errors."""
    if _HANDSHAKE_TIMEOUT in why:
        return errors.Timeout(f"{url} did not complete a TLS handshake within {connect_s} s: is it http://?")
    if _NO_TLS.search(why):
        return errors.WrongScheme(f"{url} does not speak TLS: is it http://?")
    return errors.WrongScheme(f"{url} speaks TLS: is it https://?") if _TLS_ALERT in why else None


def is_read_timeout(error: BaseException) -> bool:
    """Return whether the read timeout expired, before the response or within it."""
    expired = isinstance(error, requests.ReadTimeout) or any(isinstance(arg, ReadTimeoutError) for arg in error.args)
    return expired and not is_lost_host(error)


def is_lost_host(error: BaseException | None) -> bool:
    """Return whether TCP keepalive closed the connection.

    Python raises the same class as for a read timeout, as which urllib3 treats it; only the innermost error has the
    operating system's number.
    """
    while error is not None:
        if getattr(error, "errno", None) == errno.ETIMEDOUT:
            return True
        error = error.__cause__ or error.__context__
    return False


def reason(error: BaseException) -> str:
    """Return the message of the innermost error, which is the specific one, on one line."""
    inner = (getattr(error, "reason", None), error.__cause__, *error.args)
    for candidate in inner:
        if isinstance(candidate, BaseException):
            return reason(candidate)
    return _one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def json_or_none(content: bytes | str) -> Any:
    """Parse JSON; return None if it is invalid or nested too deeply."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _api_error(
    error_class: type[errors.APIError], fields: dict[str, Any], headers: Mapping[str, str], status: int | None
) -> errors.APIError:
    message = _one_line(str(fields.get("message") or "no reason given")).rstrip(".")
    request_id, retry_after_s = _request_id(headers), asked_wait_s(headers)
    facts = [f"HTTP {status}" if status else "", f"request {request_id}" if request_id else ""]
    where = ", ".join(fact for fact in facts if fact) or "within the stream"
    advice = error_class.advice if retry_after_s is None else f"try again in {retry_after_s:.3g} s"
    return error_class(
        f"{message} ({where}): {advice}",
        status=status,
        message=message,
        **{name: str(fields[name]) for name in ("type", "code", "param") if fields.get(name) is not None},
        request_id=request_id,
        retry_after_s=retry_after_s,
        retryable=is_retryable(status, headers) if status else error_class.retryable,
    )


def _request_id(headers: Mapping[str, str]) -> str | None:
    return headers.get("x-request-id") or None


def _choices(body: Any) -> tuple[Choice, ...]:
    """Return the partial choices in an error response; ignore them if malformed, because the error matters more."""
    try:
        return Generation.from_response(body).choices
    except errors.UnexpectedResponse:
        return ()


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _one_line(text: str) -> str:
    return " ".join(text.split())
