"""TensorFlow Serving's AspiredVersionsManager: the thread that scans base paths, and loads and unloads versions."""

import ctypes
import gc
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

from grpc import StatusCode

from model_server.config import ModelConfig
from model_server.errors import ModelServerError
from model_server.servable import Servable
from model_server.server_core import ServerCore
from model_server.versions import END, LOADING, UNLOADING, Version, scan

log = logging.getLogger(__name__)
_LIBC = ctypes.CDLL(None)


class Manager:
    """Loads and unloads one version at a time. Other versions are loaded between two retries of one.

    `load` takes the model's name, the version's number and its directory, and may raise anything. If `poll_s` is 0,
    each config is scanned once.
    """

    def __init__(
        self,
        core: ServerCore,
        load: Callable[[str, int, Path], Servable],
        *,
        poll_s: float,
        max_retries: int,
        retry_s: float,
    ) -> None:
        self._core = core
        self._load_version = load
        self._poll_s = poll_s or float("inf")
        self._max_retries, self._retry_s = max_retries, retry_s
        self._next_scan = float("inf")
        self._problems: dict[str, set[str]] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="model-manager", daemon=True)

    def start(self) -> None:
        """Start the thread, which waits for `ServerCore.configure`, if that was not called already."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop loading and unloading, but let a longer load continue in the thread; served versions stay loaded."""
        self._stopping = True
        self._core.events.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping:
            try:
                if time.monotonic() >= self._next_scan:
                    self._scan_all()
                is_busy = self._run_next_step()
                self._wait_for_event(0.0 if is_busy else self._idle_s())
            except Exception:  # the thread's top level: otherwise no version would be loaded or unloaded any more
                log.exception("unexpected error in the model manager")
                time.sleep(1.0)

    def _idle_s(self) -> float | None:
        due = min(self._next_scan, self._core.next_due())
        return None if due == float("inf") else max(due - time.monotonic(), 0.0)

    def _wait_for_event(self, timeout_s: float | None) -> None:
        """Wait for an event and handle it; without limit if `timeout_s` is None."""
        try:
            released = self._core.events.get(timeout=timeout_s)
        except queue.Empty:
            return
        if released is None:
            self._next_scan = 0.0
        else:
            with self._core.change():
                released.state = END
            log.info("unloaded %s", released)
            _release_memory()

    def _scan_all(self) -> None:
        """Scan all base paths; if one is unreadable, no model changes, as in TensorFlow Serving."""
        self._next_scan = time.monotonic() + self._poll_s
        scans: list[tuple[ModelConfig, Mapping[int, Path]]] = []
        for config in tuple((self._core.config or {}).values()):
            versions = self._scan(config)
            if versions is None:
                return
            scans.append((config, versions))
        for config, versions in scans:
            self._core.update_versions(config, versions)

    def _scan(self, config: ModelConfig) -> Mapping[int, Path] | None:
        try:
            versions, ignored = scan(config.base_path)
        except OSError as error:
            problem = f"Could not find base path {config.base_path} for servable {config.name} ({error.strerror})"
            self._report(config.name, {f"{problem}: no model is updated until it exists"})
            return None
        absent = (config.policy.specific or frozenset()) - versions.keys()
        problems = {*ignored, *(f"version {n} of {config.name} does not exist" for n in absent)}
        if not versions:
            problems.add(f"No versions of servable {config.name} found under base path {config.base_path}")
        self._report(config.name, problems)
        return versions

    def _report(self, name: str, problems: set[str]) -> None:
        """Log each problem when it first appears, not at each scan."""
        for problem in sorted(problems - self._problems.get(name, set())):
            log.warning("%s", problem)
        self._problems[name] = problems

    def _run_next_step(self) -> bool:
        """Load or unload one version, if one is due; return whether one was due."""
        match self._core.next_step(time.monotonic()):
            case "load", version:
                self._load(version)
            case "unload", version:
                self._unload(version)
            case _:
                return False
        _release_memory()
        return True

    def _load(self, version: Version) -> None:
        with self._core.change():
            version.state = LOADING
        started = time.monotonic()
        try:
            servable = self._load_version(version.model, version.number, version.path)
        except Exception as error:  # a broken version must not affect the others
            self._load_failed(version, error)
        else:
            log.info("loaded %s in %.1f s", version, time.monotonic() - started)
            with self._core.change():
                version.serve(servable)

    def _load_failed(self, version: Version, error: Exception) -> None:
        code = error.code if isinstance(error, ModelServerError) else StatusCode.UNKNOWN
        message = " ".join(str(error).split()) or type(error).__name__
        num_left = self._max_retries - version.failures
        retry_at = time.monotonic() + self._retry_s if num_left > 0 else None
        what_next = f"retrying in {self._retry_s:g} s ({num_left} retries left)" if num_left > 0 else "giving up"
        log.error("%s cannot be loaded, %s: %s: %s", version, what_next, code.name, message)
        with self._core.change():
            version.fail(code, message, retry_at)

    def _unload(self, version: Version) -> None:
        """Release a version; it ends when the last request that uses it has released it too."""
        log.info("unloading %s", version)
        weakref.finalize(version.servable, self._core.events.put, version).atexit = False
        with self._core.change():
            version.state, version.servable = UNLOADING, None


def _release_memory() -> None:
    """Collect reference cycles, such as graphs and exceptions, and return free memory to the operating system.

    glibc keeps what is free between allocations: 16 MB after a load, and three quarters of the memory of five versions
    that were unloaded.
    """
    gc.collect()
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)
