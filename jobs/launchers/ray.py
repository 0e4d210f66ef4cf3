"""Trainings as jobs of a Ray cluster, by the REST API of Ray Jobs.

Its nodes have the directories of the trainer, at the same paths, and a Python with this project at the same path.
"""

import os
from pathlib import Path
from typing import Any

from jobs.launchers.launcher import STOP_S, ClusterRun, Exit, Training, call

# The path of this project's packages; and between SIGTERM and SIGKILL three seconds would be too few to publish.
_VARIABLES = {"PYTHONPATH": str(Path(__file__).parents[2]), "RAY_JOB_STOP_WAIT_TIME_S": f"{STOP_S:.0f}"}
_RUNNING = ("PENDING", "RUNNING")


class RayLauncher:
    """Submits jobs, each with a number of CPUs; their memory is what Ray reserves, not a limit."""

    outlives_trainer = True

    def __init__(self, url: str, num_cpus: float) -> None:
        self._url, self._num_cpus = url.rstrip("/"), num_cpus

    def find(self, job: str) -> "RayJob | None":
        found = call("GET", f"{self._url}/api/jobs/", headers=_headers())
        names = (each["submission_id"] for each in found if each["status"] in _RUNNING and each["submission_id"])
        return next((RayJob(self._url, name) for name in names if name.startswith(f"{job}-")), None)

    def start(self, training: Training) -> "RayJob":
        """Submit a job; one of this name is the same."""
        run = RayJob(self._url, training.name)
        # A retried request may find what the first one has submitted.
        if run.get() is None:
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


class RayJob(ClusterRun):
    """A training as a job of Ray; its memory is that of another machine."""

    def __init__(self, url: str, name: str) -> None:
        super().__init__(name)
        self._url = f"{url}/api/jobs/{name}"

    def get(self) -> Any:
        """Return what Ray says about it; None if there is none."""
        return call("GET", self._url, headers=_headers())

    def kill(self) -> None:
        """Stop it: Ray sends SIGTERM, and SIGKILL after STOP_S."""
        call("POST", f"{self._url}/stop", headers=_headers())

    def _look(self) -> Exit | None:
        job = self.get()
        if job is None:
            # The cluster was started anew.
            return Exit(None)
        self.waits_for = "waiting for the Ray cluster" if job["status"] == "PENDING" else None
        if job["status"] in _RUNNING:
            return None
        # Without an exit code it was stopped, or Ray could not start it, or it was lost with its node.
        code = 0 if job["status"] == "SUCCEEDED" else job.get("driver_exit_code")
        return Exit.of(-9 if code is None else code)


def _headers() -> dict[str, str]:
    token = os.environ.get("RAY_AUTH_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}
