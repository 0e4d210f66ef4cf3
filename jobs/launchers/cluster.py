"""What the launchers of clusters share: calls of a REST API, and a run that is asked about."""

import contextlib
import time
from abc import ABC, abstractmethod
from typing import Any

import requests

from jobs.launchers.launcher import STOP_S, Exit, LauncherError, LauncherUnavailable

# Between two requests about a run.
POLL_S = 2.0
# How long to wait for a stopped run to be gone; the cluster kills it after STOP_S.
GONE_S = STOP_S + 30.0
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


class ClusterRun(ABC):
    """A training in a cluster, which outlives its trainer."""

    waits_for: str | None = None

    def __init__(self, name: str) -> None:
        self._name, self._poll_at = name, 0.0
        self._exit: Exit | None = None

    def poll(self) -> Exit | None:
        """Return how it ended; a cluster that does not respond changes nothing."""
        if self._exit is None and time.monotonic() >= self._poll_at:
            self._poll_at = time.monotonic() + POLL_S
            with contextlib.suppress(LauncherUnavailable):
                self._exit = self._look()
        return self._exit

    def stop(self) -> None:
        """Ask it to end, and wait until it has; a cluster kills it after STOP_S."""
        if self._exit is not None:
            return
        self.kill()
        deadline = time.monotonic() + GONE_S
        while (stopped := self._stopped()) is None:
            if time.monotonic() > deadline:
                raise LauncherUnavailable(f"{self._name} does not end")
            time.sleep(POLL_S / 4)
        self._exit = stopped

    @abstractmethod
    def kill(self) -> None:
        """Ask it to end."""

    def memory_bytes(self) -> int:
        """Return 0: the cluster limits it."""
        return 0

    @abstractmethod
    def _look(self) -> Exit | None:
        """Ask how it ended, and set `waits_for`."""

    def _stopped(self) -> Exit | None:
        """Return how it ended after `kill`; None as long as anything is left of it."""
        return self._look()
