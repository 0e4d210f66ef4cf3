"""A limit on the memory of programs under test, by a cgroup (Linux, version 1 or 2), and what became of it."""

import itertools
import os
import time
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_NUMBERS = itertools.count()


class Unavailable(Exception):
    """No cgroup can be made here."""


class MemoryCgroup:
    """A cgroup whose processes have so much memory together."""

    def __init__(self, max_bytes):
        """Make it.

        Raises:
            Unavailable: the file system of cgroups is missing or may not be written to.
        """
        self._is_first = (_ROOT / "memory/memory.limit_in_bytes").exists()
        parent = _ROOT / "memory" if self._is_first else _ROOT
        self._folder = parent / f"ostinato-test-{os.getpid()}-{next(_NUMBERS)}"
        try:
            self._folder.mkdir()
            self._path("memory.limit_in_bytes", "memory.max").write_text(str(max_bytes))
        except OSError as error:
            if self._folder.is_dir():
                self._folder.rmdir()
            raise Unavailable(f"no memory cgroup can be made: {error}") from error

    @property
    def prefix(self):
        """What goes before a command that is to run inside from its start, as memory is counted where it was taken."""
        return ["sh", "-c", f'echo $$ > {self._folder}/cgroup.procs && exec "$@"', "sh"]

    @property
    def peak_bytes(self):
        """The most that was taken."""
        return int(self._path("memory.max_usage_in_bytes", "memory.peak").read_text())

    @property
    def num_killed(self):
        """Processes that were killed for want of memory."""
        lines = self._path("memory.oom_control", "memory.events").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("oom_kill ")))

    def remove(self):
        """Remove it, once its processes have ended."""
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
