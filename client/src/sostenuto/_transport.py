"""HTTP transport: sessions, headers, retries. Knows HTTP. Does not know the API's fields."""

from __future__ import annotations

import json
import os
import re
import threading
import weakref
from typing import TYPE_CHECKING, Any, Callable, TypeVar

import requests
from urllib3.exceptions import HTTPError

from sostenuto._errors import APIError, ClientClosed, ConnectionFailed, InvalidArgument, UnexpectedResponse
from sostenuto._events import LinkedEvent
from sostenuto._responses import failure, json_object, raw_json, refusal, unexpected
from sostenuto._retries import Attempts
from sostenuto._session import Session

if TYPE_CHECKING:
    from sostenuto._readiness import WaitForReady
    from sostenuto._results import RawResponse
    from sostenuto._settings import Settings

T = TypeVar("T")

_ACCEPT_JSON = {"Accept": "application/json"}
_JSON = {"Content-Type": "application/json"}
_SURROGATE = re.compile("[\ud800-\udfff]")
_FIRST_REFUSAL = 300  # redirects too: requests would turn a redirected POST into a GET


class Transport:
    """An HTTP client of one server, with retries. Thread-safe.

    Each thread has its own requests.Session, because sessions are not thread-safe. A session passed by the caller is
    used by all threads and stays open, because the caller owns it.

    Attributes:
        closed: Set by `close`; interrupts the wait before a retry.
        was_answered: Whether any request has succeeded yet; an error response does not count.
    """

    def __init__(
        self, settings: Settings, session: requests.Session | None, wait_for_ready: WaitForReady | None
    ) -> None:
        self._settings, self._wait_for_ready = settings, wait_for_ready
        self._caller_session = session
        self._local = threading.local()
        self._lock = threading.Lock()
        self._sessions: weakref.WeakSet[requests.Session] = weakref.WeakSet()  # sessions of ended threads drop out
        self.closed = LinkedEvent()
        self.was_answered = False

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON object at `path`."""
        return self._send(json_object, "GET", path, _ACCEPT_JSON)

    def post(self, path: str, body: dict[str, Any], stopped: LinkedEvent | None = None) -> dict[str, Any]:
        """Send a JSON object and return the JSON object in the response; setting `stopped` ends retries."""
        return self._send(json_object, "POST", path, {**_ACCEPT_JSON, **_JSON}, stopped, data=_encoded(body))

    def post_raw(self, path: str, body: bytes | dict[str, Any]) -> RawResponse:
        """Send a JSON object, encoded or not, and return the response, whose JSON is not parsed."""
        data = body if isinstance(body, bytes) else _encoded(body)
        return self._send(raw_json, "POST", path, {**_ACCEPT_JSON, **_JSON}, data=data)

    def open_stream(self, path: str, body: dict[str, Any], stopped: LinkedEvent | None = None) -> requests.Response:
        """Send a JSON object and return the response with its events unread. The caller closes it.

        Setting `stopped` ends retries.
        """
        # With compression, events would be buffered until a block is full.
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity", **_JSON}
        return self._send(_events, "POST", path, headers, stopped, data=_encoded(body), stream=True)

    def close(self) -> None:
        """Close the sessions of all threads. Open streams stay open."""
        self.closed.set()
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.close()

    def _send(
        self,
        read: Callable[[requests.Response], T],
        method: str,
        path: str,
        headers: dict[str, str],
        stopped: LinkedEvent | None = None,
        **kwargs: Any,
    ) -> T:
        """Send a request until it succeeds or its error is final; return what `read` makes of the response."""
        attempts, stopped = Attempts(self._settings.max_retries, self._wait_for_ready), stopped or self.closed
        while True:
            try:
                response = read(self._attempt(method, path, headers, **kwargs))
                attempts.succeed()
                self.was_answered = True
                return response
            except (ConnectionFailed, UnexpectedResponse, APIError) as error:
                pause_s = attempts.pause_s(error)
                if pause_s is None:
                    raise
                if stopped.wait(pause_s):
                    self._require_open()
                    raise

    def _attempt(self, method: str, path: str, headers: dict[str, str], **kwargs: Any) -> requests.Response:
        timeout, url = self._settings.timeout, self._settings.base_url + path
        auth = self._authorize if self._settings.api_key else None
        try:
            response = self._session().request(
                method, url, headers=headers, auth=auth, timeout=timeout, allow_redirects=False, **kwargs
            )
            if response.status_code >= _FIRST_REFUSAL:
                _ = response.content  # read here, where a lost connection is caught
        except (requests.RequestException, HTTPError) as error:  # requests does not wrap all of urllib3's errors
            raise failure(error, self._settings.shown_url + path, self._settings) from error
        if response.status_code >= _FIRST_REFUSAL:
            raise refusal(response)
        return response

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the API key. An entry in ~/.netrc would override a plain Authorization header."""
        request.headers["Authorization"] = f"Bearer {self._settings.api_key}"
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


def _events(response: requests.Response) -> requests.Response:
    """Return a response that is a stream of events."""
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        return response
    response.close()
    raise unexpected(response, "a stream of events")


def _encoded(body: dict[str, Any]) -> bytes:
    """Encode a JSON object as UTF-8.

    Raises:
        InvalidArgument: a value is not JSON-serializable, or not encodable as UTF-8.
    """
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        for name, value in body.items():
            surrogate = _SURROGATE.search(json.dumps(value, ensure_ascii=False))
            if surrogate:
                raise InvalidArgument(
                    f"{name} has a lone surrogate, {surrogate.group()!a}, which UTF-8 cannot encode: decode "
                    "the text with its own encoding"
                ) from None
        raise
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"the request cannot be sent as JSON ({error}): correct its values") from error
