"""Trainings as child processes of the trainer, at the lowest priority."""

import contextlib
import os
import resource
import signal
import subprocess
from pathlib import Path

from contract.processes import terminate_with_parent
from export.child_process import environment
from jobs.launchers.launcher import ERRORS, OUTPUT, STOP_S, Exit, Run, Training


class ProcessLauncher:
    """Starts child processes, which end with this process."""

    outlives_trainer = False

    def find(self, job: str) -> None:
        """Return None: a child process ends with its trainer, at the latest after its current step."""

    def start(self, training: Training) -> "ChildProcess":
        parent = os.getpid()

        def prepare() -> None:
            terminate_with_parent(parent)
            # Serving goes first, and if memory runs out, the kernel kills the training.
            os.nice(19)
            with contextlib.suppress(OSError):
                Path("/proc/self/oom_score_adj").write_text("1000")

        with (training.directory / ERRORS).open("wb") as errors, (training.directory / OUTPUT).open("ab") as output:
            process = subprocess.Popen(
                training.command,
                cwd=training.directory,
                env=environment(),
                stdout=output,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                preexec_fn=prepare,  # noqa: PLW1509 - it takes no lock of another thread
                start_new_session=True,
            )
        return ChildProcess(process)


class ChildProcess(Run):
    """A training in a child process."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def poll(self) -> Exit | None:
        code = self._process.poll()
        return None if code is None else Exit.of(code)

    def stop(self) -> None:
        """Send SIGTERM, and SIGKILL if that is not enough."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
                self._process.wait()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def memory_bytes(self) -> int:
        try:
            return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * resource.getpagesize()
        except (OSError, IndexError):
            return 0
