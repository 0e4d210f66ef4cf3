"""An HTTP session that does once what `requests` does for every request. Knows HTTP. Does not retry."""

from __future__ import annotations

from typing import Any

import requests
from requests.utils import default_user_agent

from ostinato._version import __version__


class Session(requests.Session):
    """A session of one thread with one server.

    Reading proxies and certificates from the environment takes a third of the CPU time of a small request, and
    preparing its URL and headers a quarter. Both are done once: the environment for the session, and a POST for its
    path.
    """

    def __init__(self) -> None:
        super().__init__()
        self.headers["User-Agent"] = f"ostinato-client/{__version__} {default_user_agent()}"
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
