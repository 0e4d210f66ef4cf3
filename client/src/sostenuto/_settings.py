"""The client's settings, from arguments and the environment."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import unquote_to_bytes, urlsplit

from sostenuto._errors import InvalidArgument
from sostenuto._fields import as_utf8

DEFAULT_BASE_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT = (5.0, 300.0)  # a long text without streaming takes minutes on a CPU
DEFAULT_MAX_RETRIES = 2

LONGEST_S = 1_000_000  # larger timeouts overflow in the socket

Timeouts: TypeAlias = tuple[float | None, float | None]  # connect and read timeout in seconds; None disables one
TimeoutSeconds: TypeAlias = float | Timeouts | None


@dataclass(frozen=True)
class Settings:
    """Settings of a client."""

    base_url: str = field(repr=False)  # with scheme, without trailing slash and without `/v1`
    shown_url: str  # the same without user name and password
    api_key: str | None = field(repr=False)
    timeout: Timeouts
    max_retries: int  # per request

    @property
    def authorization(self) -> str:
        """The Authorization header: with the API key, or else the user name and password of the URL, or empty."""
        if self.api_key:
            return f"Bearer {self.api_key}"
        user, at, _ = urlsplit(self.base_url).netloc.rpartition("@")
        name, _, password = map(unquote_to_bytes, user.partition(":"))
        return f"Basic {b64encode(name + b':' + password).decode()}" if at else ""


def resolve(base_url: str | None, api_key: str | None, timeout: TimeoutSeconds, max_retries: int) -> Settings:
    """Complete the arguments from the environment; raise InvalidArgument if one is invalid."""
    if not isinstance(max_retries, int) or max_retries < 0:
        raise InvalidArgument(f"max_retries is {max_retries!r}: pass 0 or more")
    url = base_url if base_url is not None else os.environ.get("SOSTENUTO_BASE_URL") or DEFAULT_BASE_URL
    key = api_key if api_key is not None else os.environ.get("SOSTENUTO_API_KEY")
    url = _base_url(url)
    return Settings(
        base_url=url,
        shown_url=re.sub(r"(?<=://)[^/]*@", "", url),
        api_key=_api_key(key) if key else None,
        timeout=_timeout(timeout),
        max_retries=max_retries,
    )


def _timeout(timeout: TimeoutSeconds) -> Timeouts:
    pair = timeout if isinstance(timeout, tuple) else (timeout, timeout)
    is_valid = all(
        seconds is None or (isinstance(seconds, (int, float)) and 0 < seconds <= LONGEST_S) for seconds in pair
    )
    if len(pair) != 2 or not is_valid:
        raise InvalidArgument(
            f"timeout is {timeout!r}: pass seconds above 0 and at most {LONGEST_S:,}, a pair of them (to connect, to "
            "read), or None for no timeout"
        )
    return pair


def _base_url(url: str) -> str:
    # Up to the last @: an invalid URL may have a password with a character that ends a host.
    shown = re.sub(r"^(b?.(?:\w+://)?).*@", r"\1***@", repr(url))
    if not isinstance(url, str):
        raise InvalidArgument(f"base_url is {shown}: pass a str")
    as_utf8("base_url", url)
    url = url.strip().rstrip("/")
    if "?" in url or "#" in url:
        raise InvalidArgument(f"base_url is {shown}: remove the part from ? or # on")
    if not url.lower().startswith(("http://", "https://")):
        raise InvalidArgument(f"base_url is {shown}: it must start with http:// or https://")
    try:
        host, port = urlsplit(url).hostname, urlsplit(url).port
    except ValueError:
        host = port = None
    if not host or port == 0:
        raise InvalidArgument(f"base_url is {shown}: pass a URL such as {DEFAULT_BASE_URL}")
    return re.sub("(?<!/)/v1$", "", url)  # but not the host of http://v1


def _api_key(key: str) -> str:
    if not isinstance(key, str):
        raise InvalidArgument(f"api_key is of type {type(key).__name__}: pass a str")
    key = key.strip()  # a key read from a file ends with a newline
    if not (key.isascii() and key.isprintable()):
        raise InvalidArgument("api_key has characters that an HTTP header can't carry: use printable ASCII")
    return key
