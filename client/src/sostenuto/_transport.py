"""HTTP: sessions, headers, detection of lost hosts, and requests with retries."""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import requests
from requests.adapters import HTTPAdapter
from requests.utils import default_user_agent
from urllib3 import encode_multipart_formdata
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError

from sostenuto._errors import (
    APIError,
    ClientClosed,
    ConnectionFailed,
    InvalidArgument,
    NotFound,
    TrainingDisabled,
    UnexpectedResponse,
)
from sostenuto._fields import as_utf8
from sostenuto._responses import failure, json_object, raw_json, refusal, unexpected
from sostenuto._results import RawResponse
from sostenuto._retries import Attempts, LinkedEvent, WaitForReady
from sostenuto._settings import Settings, Timeouts
from sostenuto._version import __version__

T = TypeVar("T")

_JSON = {"Accept": "application/json"}
# With compression, events would be buffered until a block is full.
_EVENTS = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
_BOUNDARY = uuid.uuid4().hex  # of the parts of a form; no file has it
_FIRST_REFUSAL = 300  # redirects too: requests would turn a redirected POST into a GET

KEEPALIVE_S = 5  # silence before the first probe, and between probes
LOST_AFTER_S = 15  # without an acknowledgment: a lost host closes no connection, and TCP alone would wait for minutes


class Transport:
    """An HTTP client of one server, with retries. Thread-safe.

    Each thread has its own requests.Session, because sessions are not thread-safe. A session passed by the caller is
    used by all threads and stays open, because the caller owns it.
    """

    def __init__(
        self, settings: Settings, session: requests.Session | None, wait_for_ready: WaitForReady | None
    ) -> None:
        self._settings, self._wait_for_ready = settings, wait_for_ready
        self._authorization = settings.authorization
        self._caller_session = session
        self._local = threading.local()
        self._lock = threading.Lock()
        self._sessions: weakref.WeakSet[requests.Session] = weakref.WeakSet()  # sessions of ended threads drop out
        self.closed = LinkedEvent()  # set by `close`; interrupts the wait before a retry
        self.was_answered = False  # whether any request has succeeded yet; an error response does not count

    def send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        stopped: LinkedEvent | None = None,
        patient: bool = False,
        once: bool = False,
        attempts: Attempts | None = None,
    ) -> dict[str, Any]:
        """Send a request, with a JSON object if there is a body, and return the JSON object in the response.

        Setting `stopped` ends retries; if `patient`, those after 429 do not count; if `once`, a request that the server
        may have processed is not sent again.
        """
        attempts = attempts or self.attempts(patient=patient, once=once)
        return self._retry(json_object, method, path, body, _JSON, stopped=stopped, attempts=attempts)

    def delete(self, path: str) -> None:
        """Delete a resource. After a lost response, 404 means that the lost request deleted it."""
        attempts = self.attempts()
        try:
            self._retry(json_object, "DELETE", path, None, _JSON, attempts=attempts)
        except NotFound as error:
            if isinstance(error, TrainingDisabled) or not attempts.may_be_processed:
                raise

    def send_form(self, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Send fields as multipart/form-data and return the JSON object in the response.

        A value is a str, or for a file its name and content.
        """
        data, content_type = encode_multipart_formdata(fields, boundary=_BOUNDARY)
        return self._retry(json_object, "POST", path, data, {**_JSON, "Content-Type": content_type})

    def send_raw(self, path: str, body: bytes | str | dict[str, Any]) -> RawResponse:
        """Send a JSON object, encoded or not, and return the response, whose JSON is not parsed."""
        return self._retry(raw_json, "POST", path, body, _JSON)

    def open_stream(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        stopped: LinkedEvent,
        min_read_s: float = 0.0,
    ) -> requests.Response:
        """Send a request as `send` does, and return the response with its events unread. The caller closes it.

        Its read timeout is that of the settings, but at least `min_read_s`.
        """
        connect_s, read_s = self._settings.timeout
        timeout = connect_s, None if read_s is None else max(read_s, min_read_s)
        return self._retry(_events, method, path, body, _EVENTS, stream=True, stopped=stopped, timeout=timeout)

    def close(self) -> None:
        """Close the sessions of all threads. Open streams stay open."""
        self.closed.set()
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.close()

    def _retry(
        self,
        read: Callable[[requests.Response], T],
        method: str,
        path: str,
        body: bytes | str | dict[str, Any] | None,
        headers: dict[str, str],
        *,
        stream: bool = False,
        stopped: LinkedEvent | None = None,
        attempts: Attempts | None = None,
        timeout: Timeouts | None = None,
    ) -> T:
        """Send a request until it succeeds or its error is final; return what `read` makes of the response."""
        if body is not None:
            headers = {"Content-Type": "application/json", **headers}
        data = _encoded(body)
        timeout = timeout or self._settings.timeout
        attempt = partial(self._attempt, method, path, headers, data=data, stream=stream, timeout=timeout)
        attempts = attempts or self.attempts()
        while True:
            try:
                response = read(attempt())
                attempts.succeed()
                self.was_answered = True
                return response
            except (ConnectionFailed, UnexpectedResponse, APIError) as error:
                pause_s = attempts.pause_s(error)
                if pause_s is None:
                    raise
                if (stopped or self.closed).wait(pause_s):
                    self._require_open()
                    raise

    def attempts(self, *, patient: bool = False, once: bool = False) -> Attempts:
        """Return the attempts of a request that is still to be sent, as configured."""
        return Attempts(self._settings.max_retries, self._wait_for_ready, patient=patient, once=once)

    def _attempt(
        self, method: str, path: str, headers: dict[str, str], *, timeout: Timeouts, **kwargs: Any
    ) -> requests.Response:
        url, auth = self._settings.shown_url + path, self._authorize if self._authorization else None
        try:
            response = self._session().request(
                method, url, headers=headers, auth=auth, timeout=timeout, allow_redirects=False, **kwargs
            )
            if response.status_code >= _FIRST_REFUSAL:
                _ = response.content  # read here, where a lost connection is caught
        # requests wraps neither all of urllib3's errors nor that of a missing file of certificates.
        except (OSError, HTTPError) as error:
            raise failure(error, url, timeout) from error
        if response.status_code >= _FIRST_REFUSAL:
            raise refusal(response)
        return response

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the Authorization header. An entry in ~/.netrc would override a plain one."""
        request.headers["Authorization"] = self._authorization
        return request

    def _session(self) -> requests.Session:
        self._require_open()
        if self._caller_session is not None:
            return self._caller_session
        # A forked process inherits its parent's connections: on a shared one, each would get the other's responses.
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None or self._local.pid != os.getpid():
            session, self._local.pid = Session(), os.getpid()
            self._local.session = session
            with self._lock:
                self._sessions.add(session)
        return session

    def _require_open(self) -> None:
        if self.closed.is_set():
            raise ClientClosed("this Client is closed: create a new one")


class Session(requests.Session):
    """A session of one thread with one server.

    Reading proxies and certificates from the environment takes a third of the CPU time of a small request, and
    preparing its URL and headers a quarter. Both are done once: the environment for the session, and a POST for its
    path.
    """

    def __init__(self) -> None:
        super().__init__()
        for scheme in ("http://", "https://"):
            self.mount(scheme, _KeepAliveAdapter())
        self.headers["User-Agent"] = f"sostenuto/{__version__} {default_user_agent()}"
        self._environment: dict[str, Any] = {}
        self._prepared_posts: dict[tuple[Any, ...], requests.PreparedRequest] = {}

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """Return proxies and certificates as the environment had them at the first request."""
        if not self._environment:
            self._environment = {**super().merge_environment_settings(url, proxies, stream, verify, cert)}
        return {**self._environment, "stream": stream}

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        """Prepare a request. A POST is a copy of the first one to its URL, with a body of its own, in bytes."""
        if request.method != "POST" or self.cookies:
            return super().prepare_request(request)
        body: Any = request.data
        key = (request.url, *request.headers.items())
        if key not in self._prepared_posts:
            request.data = b""
            self._prepared_posts[key] = super().prepare_request(request)
        prepared = self._prepared_posts[key].copy()
        prepared.body = body
        prepared.headers["Content-Length"] = str(len(body))
        return prepared


class _KeepAliveAdapter(HTTPAdapter):
    """Connections with TCP keepalive, by which the operating system detects a lost host.

    Slow responses are not affected: the server's operating system acknowledges the probes.
    """

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Set the options of direct connections."""
        super().init_poolmanager(*args, **kwargs, socket_options=socket_options())

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        """Set the options of connections to a proxy."""
        return super().proxy_manager_for(proxy, **proxy_kwargs, socket_options=socket_options())


def socket_options() -> list[tuple[int, int, int]]:
    """Return urllib3's own options and the keepalive options that the operating system supports."""
    of_tcp = {
        "TCP_KEEPIDLE": KEEPALIVE_S,
        "TCP_KEEPALIVE": KEEPALIVE_S,  # its name on macOS
        "TCP_KEEPINTVL": KEEPALIVE_S,
        "TCP_KEEPCNT": LOST_AFTER_S // KEEPALIVE_S - 1,
        "TCP_USER_TIMEOUT": LOST_AFTER_S * 1000,  # also for a request that is not acknowledged
    }
    found = [(getattr(socket, name, None), value) for name, value in of_tcp.items()]
    keepalive = [(socket.IPPROTO_TCP, option, value) for option, value in found if option is not None]
    return [*HTTPConnection.default_socket_options, (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *keepalive]


def _events(response: requests.Response) -> requests.Response:
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        return response
    response.close()
    raise unexpected(response, "a stream of events")


def _encoded(body: bytes | str | dict[str, Any] | None) -> bytes | None:
    """Encode a JSON object, or a str, as UTF-8; raise InvalidArgument if a value has no JSON or cannot be encoded."""
    if not isinstance(body, dict):
        return as_utf8("body", body) if isinstance(body, str) else body
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        for name, value in body.items():
            as_utf8("a field's name", str(name))
            if isinstance(value, str):
                as_utf8(name, value)
            else:
                as_utf8(f"the JSON of {name}", json.dumps(value, ensure_ascii=False))
        raise
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"the request cannot be sent as JSON ({error}): correct its values") from error
