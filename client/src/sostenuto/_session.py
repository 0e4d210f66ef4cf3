"""An HTTP session that does once what `requests` does for every request. Knows HTTP. Does not retry."""

from __future__ import annotations

import socket
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.utils import default_user_agent
from urllib3.connection import HTTPConnection

from sostenuto._version import __version__

KEEPALIVE_S = 5  # silence before the first probe, and between probes
LOST_AFTER_S = 15  # without an acknowledgement: a lost host closes no connection, and TCP alone would wait for minutes


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
    """Connections with TCP keepalive, by which the operating system notices a host that is gone.

    A wait for a slow response stays possible: the operating system of the server acknowledges the probes.
    """

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Set the options of direct connections."""
        super().init_poolmanager(*args, **kwargs, socket_options=socket_options())

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        """Set the options of connections to a proxy."""
        return super().proxy_manager_for(proxy, **proxy_kwargs, socket_options=socket_options())


def socket_options() -> list[tuple[int, int, int]]:
    """Return urllib3's own options and those of keepalive that the operating system has."""
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
