"""A memory limit for programs under test, by a cgroup (Linux, version 1 or 2), and the memory that they used."""

import itertools
import os
import time
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_NUMBERS = itertools.count()


class Unavailable(Exception):
    """The error that no cgroup can be made on this machine."""


class MemoryCgroup:
    """A cgroup that limits the memory of all its processes together."""

    def __init__(self, max_bytes):
        """Create it.

        Raises:
            Unavailable: the cgroup file system is missing or not writable.
        """
        self._is_first = (_ROOT / "memory/memory.limit_in_bytes").exists()
        parent = _ROOT / "memory" if self._is_first else _ROOT
        self._folder = parent / f"sostenuto-test-{os.getpid()}-{next(_NUMBERS)}"
        try:
            self._folder.mkdir()
            self._path("memory.limit_in_bytes", "memory.max").write_text(str(max_bytes))
        except OSError as error:
            if self._folder.is_dir():
                self._folder.rmdir()
            raise Unavailable(f"no memory cgroup can be made: {error}") from error

    @property
    def prefix(self):
        """Words before a command that run it inside from its start: memory is charged to where it was allocated."""
        return ["sh", "-c", f'echo $$ > {self._folder}/cgroup.procs && exec "$@"', "sh"]

    @property
    def peak_bytes(self):
        return int(self._path("memory.max_usage_in_bytes", "memory.peak").read_text())

    @property
    def num_killed(self):
        """The number of processes killed for lack of memory."""
        lines = self._path("memory.oom_control", "memory.events").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("oom_kill ")))

    def remove(self):
        """Remove it, after its processes have ended."""
        deadline = time.monotonic() + 10
        while self._folder.exists():
            try:
                self._folder.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _path(self, first, second):
        return self._folder / (first if self._is_first else second)
