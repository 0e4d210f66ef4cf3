"""What a trainer needs of the place where trainings run."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

OUTPUT, ERRORS = "log.txt", "stderr.txt"
# Of a training that is asked to end: it ends after its current step, or after publishing.
STOP_S = 60.0


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
        """A name in a cluster, which begins with `prefix`."""
        return f"{prefix(self.job)}{self.number}"

    @property
    def shell_command(self) -> str:
        """The command for a shell, with current directory and output."""
        directory = shlex.quote(str(self.directory))
        return f"cd {directory} && exec {shlex.join(self.command)} >>{OUTPUT} 2>{ERRORS}"


def prefix(job: str) -> str:
    """Return what the names of all runs of a job begin with."""
    return f"{job}-"


@dataclass(frozen=True)
class Exit:
    """How a run ended."""

    code: int | None  # negative for a signal; None: the cluster ended it, through no fault of the training
    message: str | None = None  # why it failed, if its output does not say so


class LauncherUnavailable(Exception):
    """A cluster does not respond; what was asked of it may be repeated."""


class LauncherError(Exception):
    """A cluster refuses a training; the message says why."""


class Run(Protocol):
    """A run that has been started; any method may raise LauncherUnavailable."""

    waits_for: str | None  # a message that says what it waits for since the last `poll`, or None

    def poll(self) -> Exit | None:
        """Return how it ended; None while it runs or waits."""

    def stop(self) -> None:
        """Ask it to end, wait until it has, for STOP_S at most, and kill it then."""

    def kill(self) -> None:
        """End it at once; `stop` waits for that."""

    def memory_bytes(self) -> int:
        """Return its resident memory; 0 if the launcher itself limits it, or it has ended."""


class Launcher(Protocol):
    """Starts runs, and finds them again."""

    outlives_trainer: bool  # whether a run survives its trainer, and the next trainer adopts it

    def find(self, job: str) -> Run | None:
        """Return the run of a job that another trainer has started and that has not ended."""

    def start(self, training: Training) -> Run:
        """Start a run; raise LauncherUnavailable or LauncherError."""
