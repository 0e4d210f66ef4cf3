"""Trainings as jobs of a Ray cluster, by the REST API of Ray Jobs.

Its nodes have the directories of the trainer, at the same paths, and a Python with this project at the same path.
"""

import contextlib
import os
import time
from pathlib import Path
from typing import Any

from jobs.launchers.launcher import STOP_S, Exit, LauncherUnavailable, Training, prefix
from jobs.launchers.rest import call

# The path of this project's packages; and between SIGTERM and SIGKILL three seconds would be too few to publish.
_VARIABLES = {"PYTHONPATH": str(Path(__file__).parents[2]), "RAY_JOB_STOP_WAIT_TIME_S": f"{STOP_S:.0f}"}
# Between two requests about a job.
_POLL_S = 2.0
_RUNNING = ("PENDING", "RUNNING")


class RayLauncher:
    """Submits jobs, each with a number of CPUs; their memory is what Ray reserves, not a limit."""

    outlives_trainer = True

    def __init__(self, url: str, num_cpus: float) -> None:
        self._url, self._num_cpus = url.rstrip("/"), num_cpus

    def find(self, job: str) -> "RayJob | None":
        """Return the Ray job of a training job that has not ended."""
        found = call("GET", f"{self._url}/api/jobs/", headers=_headers())
        names = (each["submission_id"] for each in found if each["status"] in _RUNNING and each["submission_id"])
        return next((RayJob(self._url, name) for name in names if name.startswith(prefix(job))), None)

    def start(self, training: Training) -> "RayJob":
        """Submit a job; one of this name is the same."""
        run = RayJob(self._url, training.name)
        # A retried request may find what the first one has submitted.
        if run.look() is None:
            body = {
                "submission_id": training.name,
                "entrypoint": training.shell_command,
                "entrypoint_num_cpus": self._num_cpus,
                "entrypoint_memory": training.max_memory_bytes,
                "runtime_env": {"env_vars": _VARIABLES},
                "metadata": {"job": training.job, "tenant": training.tenant},
            }
            call("POST", f"{self._url}/api/jobs/", headers=_headers(), json=body)
        return run


class RayJob:
    """A training as a job of Ray."""

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = f"{url}/api/jobs/{name}", name
        self._poll_at = 0.0
        self._exit: Exit | None = None
        self.waits_for: str | None = None

    def look(self) -> Any:
        """Return what Ray says about it; None if there is none."""
        return call("GET", self._url, headers=_headers())

    def poll(self) -> Exit | None:
        """Return how it ended; a cluster that does not respond changes nothing."""
        if self._exit is None and time.monotonic() >= self._poll_at:
            self._poll_at = time.monotonic() + _POLL_S
            with contextlib.suppress(LauncherUnavailable):
                self._exit = self._ended()
        return self._exit

    def stop(self) -> None:
        """Stop it, and wait until it has ended."""
        if self._exit is not None:
            return
        self.kill()
        deadline = time.monotonic() + 2 * STOP_S
        while (ended := self._ended()) is None:
            if time.monotonic() > deadline:
                raise LauncherUnavailable(f"the Ray job {self._name} does not end")
            time.sleep(_POLL_S / 4)
        self._exit = ended

    def kill(self) -> None:
        """Stop it: Ray sends SIGTERM, and SIGKILL after STOP_S."""
        call("POST", f"{self._url}/stop", headers=_headers())

    def memory_bytes(self) -> int:
        """Return 0, as it runs on another machine."""
        return 0

    def _ended(self) -> Exit | None:
        job = self.look()
        if job is None:
            # The cluster was started anew.
            return Exit(None)
        self.waits_for = "waiting for the Ray cluster" if job["status"] == "PENDING" else None
        if job["status"] in _RUNNING:
            return None
        # Without an exit code it was stopped, or Ray could not start it, or it was lost with its node.
        code = 0 if job["status"] == "SUCCEEDED" else job.get("driver_exit_code")
        return Exit(-9 if code is None else code)


def _headers() -> dict[str, str]:
    token = os.environ.get("RAY_AUTH_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}
