"""The HTTP client of the gateway: sends each request, with retries, until it has a response or finally fails."""

import threading
from dataclasses import dataclass, field
from typing import Any

import requests
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import ReadTimeoutError

from service.batch.errors import Stopped, UsageError
from service.batch.output_record import parse_json
from service.batch.requests_file import URLS, Request
from service.batch.retries import MAX_ATTEMPTS, Patience, Verdict, asked_wait_s, describe, judge, next_wait_s

CONNECT_TIMEOUT_S = 10.0
STATUS_TIMEOUT_S = 30.0
# A gateway with a shorter uptime may not have loaded all of its models yet.
SETTLING_S = 60.0
# Lost connections per line, while other lines get responses, before the line fails.
MAX_LOST = 5
STATUS = "/v1/status"


@dataclass(frozen=True)
class Address:
    """Address of the gateway, with API key and time-out.

    Attributes:
        base_url: With or without /v1 at its end.
        timeout_s: Time-out of one response in seconds.
    """

    base_url: str
    api_key: str | None = field(repr=False)
    timeout_s: float

    def url(self, path: str) -> str:
        """Return the URL of a path."""
        return self.base_url.rstrip("/").removesuffix("/v1") + path


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response; `parsed` is None if it is not JSON."""

    status: int
    headers: CaseInsensitiveDict[str]
    content: bytes
    parsed: Any


class Failure(Exception):
    """A line gets no HTTP response; `code` is machine-readable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _ConnectionLost(Exception):
    """The connection failed, or broke before the response was complete."""


class Gateway:
    """A client of the gateway. Thread-safe; each thread has its own connections."""

    def __init__(self, address: Address, patience: Patience) -> None:
        """Prepare the requests; nothing is sent.

        Raises:
            UsageError: the base URL is invalid.
        """
        self._address, self._patience = address, patience
        self._local = threading.local()
        if not address.base_url.startswith(("http://", "https://")):
            raise UsageError(f"--base-url must be like http://host:port, got {address.base_url!r}")
        with requests.Session() as session:
            try:
                self._prepared = {path: self._prepare("POST", path) for path in URLS} | {
                    STATUS: self._prepare("GET", STATUS)
                }
                # Looked up once: reading proxies and certificates from the environment takes a third of a call.
                self._send_options = session.merge_environment_settings(address.url(STATUS), {}, None, None, None)
            except (requests.RequestException, ValueError) as error:
                raise UsageError(
                    f"--base-url must be like http://host:port, got {address.base_url!r}: {error}"
                ) from None

    def num_free(self) -> int:
        """Return how many more sequences the gateway would admit; wait while it is unavailable.

        Raises:
            Stopped: it stays unavailable, refuses the key or is not a gateway.
        """
        attempt = 0
        while True:
            try:
                reply = self._exchange(STATUS, None, STATUS_TIMEOUT_S)
                verdict = judge(reply.status, reply.headers, reply.parsed)
                if verdict is Verdict.STOP:
                    raise self._refused(reply)
                if verdict is not Verdict.WAIT:
                    return self._parse_num_free(reply)
                trouble, asked_s = describe(reply.status, reply.parsed), asked_wait_s(reply.headers)
            except (_ConnectionLost, Failure) as error:
                trouble, asked_s = str(error), None
            self._patience.wait(next_wait_s(attempt, asked_s), trouble)
            attempt += 1

    def ask(self, request: Request) -> Reply:
        """Send a request, with retries, and return its response.

        Raises:
            Failure: this line gets no response.
            Stopped: no line would get one.
        """
        attempt = num_lost = 0
        num_answers = self._patience.num_answers
        while True:
            asked_s = None
            try:
                reply = self._exchange(request.url, request.body, self._address.timeout_s)
                verdict = self._judge(reply)
                if verdict is Verdict.AGAIN and attempt + 1 >= MAX_ATTEMPTS:
                    verdict = Verdict.FINAL
                if verdict is Verdict.STOP:
                    raise self._refused(reply)
                if verdict is Verdict.FINAL:
                    return self._final(reply)
                trouble, asked_s = describe(reply.status, reply.parsed), asked_wait_s(reply.headers)
                attempt += verdict is Verdict.AGAIN
            except _ConnectionLost as error:
                trouble = str(error)
                # Other lines got responses meanwhile, so this line breaks its connections.
                num_lost += self._patience.num_answers != num_answers
                num_answers = self._patience.num_answers
                if num_lost >= MAX_LOST:
                    raise Failure("connection_lost", f"{num_lost} connections broke, the last one: {trouble}") from None
            self._patience.wait(next_wait_s(max(attempt, num_lost), asked_s), trouble)

    def _judge(self, reply: Reply) -> Verdict:
        if (
            reply.status == 404
            and describe(404, reply.parsed).startswith("404 model_not_found")
            and self._is_settling()
        ):
            return Verdict.WAIT
        return judge(reply.status, reply.headers, reply.parsed)

    def _is_settling(self) -> bool:
        """Return whether the gateway has just started or serves no model: one may be loaded soon."""
        try:
            status = self._exchange(STATUS, None, STATUS_TIMEOUT_S).parsed
        except Failure as error:
            raise _ConnectionLost(str(error)) from None
        if not isinstance(status, dict):
            return False
        return not status.get("models", True) or status.get("uptime_s", SETTLING_S) < SETTLING_S

    def _final(self, reply: Reply) -> Reply:
        self._patience.answered()
        if reply.parsed is None and reply.status < 400:
            start = reply.content[:80].decode(errors="replace")
            raise Failure("not_json", f"the answer must be JSON, got status {reply.status} and {start!r}")
        return reply

    def _parse_num_free(self, reply: Reply) -> int:
        try:
            sequences = reply.parsed["sequences"]
            return max(1, int(sequences["max"]) - int(sequences["accepted"]))
        except (KeyError, TypeError, ValueError):
            url, start = self._address.url(STATUS), reply.content[:40].decode(errors="replace")
            raise Stopped(f"{url} is not an Ostinato gateway's: got status {reply.status} and {start!r}") from None

    def _refused(self, reply: Reply) -> Stopped:
        key = "with the key of OSTINATO_API_KEY" if self._address.api_key else "without a key (OSTINATO_API_KEY)"
        return Stopped(f"the gateway lets nobody in {key}: {describe(reply.status, reply.parsed)}")

    def _exchange(self, path: str, body: bytes | None, timeout_s: float) -> Reply:
        prepared = self._prepared[path].copy()
        if body is not None:
            prepared.body = body
            prepared.headers["Content-Length"] = str(len(body))
        try:
            response = self._session().send(
                prepared, timeout=(CONNECT_TIMEOUT_S, timeout_s), allow_redirects=False, **self._send_options
            )
        except requests.RequestException as error:
            # requests raises a time-out in the head and one in the body differently.
            if error.args and isinstance(error.args[0], ReadTimeoutError):
                raise self._timed_out(timeout_s) from None
            raise _ConnectionLost(f"no answer from {self._address.base_url}: {_reason(error)}") from None
        return Reply(response.status_code, response.headers, response.content, parse_json(response.content))

    def _timed_out(self, timeout_s: float) -> Failure:
        return Failure("timeout", f"no answer within --timeout of {timeout_s:g} s, and it is not asked for twice")

    def _prepare(self, method: str, path: str) -> requests.PreparedRequest:
        headers = {"User-Agent": "ostinato-batch", "Accept": "application/json", "Content-Type": "application/json"}
        if self._address.api_key:
            # Not set on a session, where an entry in ~/.netrc would override it.
            headers["Authorization"] = f"Bearer {self._address.api_key}"
        return requests.Request(method, self._address.url(path), headers=headers).prepare()

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
        return session


def _reason(error: BaseException) -> str:
    """Return the innermost exception that requests wraps, without memory addresses of objects."""
    inner: Any = error
    while inner.args and isinstance(inner.args[-1], BaseException):
        inner = inner.args[-1]
    if isinstance(reason := getattr(inner, "reason", None), BaseException):
        inner = reason
    words = str(inner).rpartition(">: ")[2].rpartition("): ")[2]
    # The error quotes a response that is not HTTP, which may be unprintable.
    return words if words and words.isprintable() else type(inner).__name__
