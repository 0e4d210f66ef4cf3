"""Calls of a cluster's REST API."""

from typing import Any

import requests

from jobs.launchers.launcher import LauncherError, LauncherUnavailable

_TIMEOUT_S = 10.0
_SHOWN = 500  # characters of a refusal


def call(method: str, url: str, *, headers: dict[str, str], verify: str | bool = True, **options: Any) -> Any:
    """Return the JSON of a response; None for 404.

    Raises:
        LauncherUnavailable: there is no response, or one that says that the server is not able to.
        LauncherError: the request is refused.
    """
    try:
        response = requests.request(method, url, headers=headers, verify=verify, timeout=_TIMEOUT_S, **options)
        if response.status_code == requests.codes.not_found:
            return None
        if response.status_code == requests.codes.too_many_requests or response.status_code >= 500:
            raise LauncherUnavailable(f"{method} {url}: {response.status_code} {response.text[:_SHOWN]}")
        if not response.ok:
            raise LauncherError(f"{method} {url}: {response.status_code} {response.text[:_SHOWN]}")
        return response.json()
    except requests.RequestException as error:
        raise LauncherUnavailable(f"{method} {url}: {error}") from error
