"""What a trainer needs of the place where trainings run; and what the launchers of clusters share."""

import contextlib
import shlex
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import requests

OUTPUT, ERRORS = "log.txt", "stderr.txt"
# Of a training that is asked to end: it ends after its current step, or after publishing.
STOP_S = 60.0
# Between two requests about a run.
POLL_S = 2.0
# How long to wait for a stopped run to be gone; the cluster kills it after STOP_S.
GONE_S = STOP_S + 30.0
_TIMEOUT_S = 10.0
_SHOWN = 500  # characters of a refusal


@dataclass(frozen=True)
class Training:
    """One run of the exporter for a job."""

    job: str
    number: str  # of this run among those of the job, unique
    tenant: str
    command: Sequence[str]
    directory: Path  # its current directory, which gets its output, OUTPUT and ERRORS
    max_memory_bytes: int
    max_s: float | None  # what the trainer allows; a launcher ends it only later, in case there is no trainer

    @property
    def name(self) -> str:
        """A name in a cluster; the names of all runs of a job begin with its id and a dash."""
        return f"{self.job}-{self.number}"

    @property
    def shell_command(self) -> str:
        """The command for a shell, with current directory and output."""
        directory = shlex.quote(str(self.directory))
        return f"cd {directory} && exec {shlex.join(self.command)} >>{OUTPUT} 2>{ERRORS}"


@dataclass(frozen=True)
class Exit:
    """How a run ended."""

    code: int | None  # negative for a signal; None: the cluster ended it, through no fault of the training
    message: str | None = None  # why it failed, if its output does not say so

    @classmethod
    def of(cls, code: int) -> Self:
        """Return the end of a process; one that handled a signal, and a shell, exit with 128 plus its number."""
        return cls(128 - code if code - 128 in set(signal.Signals) else code)


class LauncherUnavailable(Exception):
    """A cluster does not respond; what was asked of it may be repeated."""


class LauncherError(Exception):
    """A cluster refuses a training; the message says why."""


class Run(ABC):
    """A run that has been started; any method may raise LauncherUnavailable."""

    waits_for: str | None = None  # a message that says what it waits for since the last `poll`, or None

    @abstractmethod
    def poll(self) -> Exit | None:
        """Return how it ended; None while it runs or waits."""

    @abstractmethod
    def stop(self) -> None:
        """Ask it to end, wait until it has, for STOP_S at most, and kill it then."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once; in a cluster, ask it to end. `stop` waits for that."""

    def memory_bytes(self) -> int:
        """Return its resident memory; 0 if the launcher itself limits it, or it has ended."""
        return 0


class Launcher(Protocol):
    """Starts runs, and finds them again."""

    outlives_trainer: bool  # whether a run survives its trainer, and the next trainer adopts it

    def find(self, job: str) -> Run | None:
        """Return the run of a job that another trainer has started and that has not ended."""

    def start(self, training: Training) -> Run:
        """Start a run; raise LauncherUnavailable or LauncherError."""


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


class ClusterRun(Run):
    """A training in a cluster, which outlives its trainer and limits its memory."""

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
    def _look(self) -> Exit | None:
        """Ask how it ended, and set `waits_for`."""

    def _stopped(self) -> Exit | None:
        """Return how it ended after `kill`; None as long as anything is left of it."""
        return self._look()
