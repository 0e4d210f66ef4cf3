"""The models of the config and their versions: lookups, reloads, and the thread that loads and unloads versions.

TensorFlow Serving's ServerCore and AspiredVersionsManager.
"""

import contextlib
import ctypes
import gc
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from grpc import StatusCode
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from model_server.config import ModelConfig, ServerConfig
from model_server.errors import InvalidArgument, ModelServerError
from model_server.servable import Servable
from model_server.versions import END, LOADING, UNLOADING, Model, Version, scan

log = logging.getLogger(__name__)
# Interval at which a waiting call checks whether to give up.
_GIVE_UP_POLL_S = 0.1
# Version number of each label of each model.
Labels = Mapping[str, Mapping[str, int]]
_LIBC = ctypes.CDLL(None)


class Manager:
    """The models of the config. Thread-safe: lookups take no lock, so neither loads nor reloads block requests.

    Its thread loads and unloads one version at a time. Other versions are loaded between two retries of one.

    Attributes:
        config: The current config; None until one is applied.
    """

    def __init__(
        self,
        load: Callable[[str, int, Path], Servable],
        *,
        poll_s: float,
        max_retries: int,
        retry_s: float,
        allow_unavailable_labels: bool = False,
    ) -> None:
        """Prepare.

        Args:
            load: Takes the model's name, the version's number and its directory, and may raise anything.
            poll_s: Interval of the scans for versions; 0: each config is scanned once.
            max_retries: Of a version that fails to load.
            retry_s: Seconds between two retries.
            allow_unavailable_labels: Whether a new label may point to a version that is not available.
        """
        self._load_version = load
        self._poll_s = poll_s or float("inf")
        self._max_retries, self._retry_s = max_retries, retry_s
        self._allow_unavailable_labels = allow_unavailable_labels
        self.config: ServerConfig | None = None
        self._models: dict[str, Model] = {}
        # What lookups read, replaced as a whole: the servable of each available version of each model, and the labels.
        self._served: tuple[Mapping[str, Mapping[int, Servable]], Labels] = {}, {}
        # Held while a config is applied and its new models are loading, as `config_mu_` of TensorFlow's ServerCore is.
        self._reloading = threading.Lock()
        # Guards config, models and what is published; notified when a state changes.
        self._changed = threading.Condition()
        # Wakes the thread: with a version whose last user has released it, or None for another change. Unlike taking a
        # lock, `put` is safe in a finalizer, which may run at any line of any thread.
        self._events: queue.SimpleQueue[Version | None] = queue.SimpleQueue()
        self._next_scan = float("inf")
        self._problems: dict[str, set[str]] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="model-manager", daemon=True)

    def find(self, name: str, version: int | None = None, label: str | None = None) -> Servable:
        """Return a version, by default the newest. It stays usable even when it is unloaded meanwhile.

        Raises:
            ModelServerError: INVALID_ARGUMENT for an empty name or an unknown label, otherwise NOT_FOUND.
        """
        if not name:
            raise InvalidArgument("ModelSpec has no name specified.")
        served, labels = self._served
        if label is not None:
            version = labels.get(name, {}).get(label)
            if version is None:
                raise InvalidArgument(f"Unrecognized servable version label: {label}")
        versions = served.get(name, {})
        resolved = max(versions, default=None) if version is None else version
        if resolved is None or resolved not in versions:
            request = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise ModelServerError(StatusCode.NOT_FOUND, f"Servable not found for request: {request}")
        return versions[resolved]

    def statuses(self, name: str, number: int | None = None) -> list[ModelVersionStatus]:
        """Return the status of a model's versions, newest first, or of one; ended ones and former models included."""
        with self._changed:
            versions = self._models[name].versions.values() if name in self._models else ()
            statuses = [
                ModelVersionStatus(
                    version=version.number,
                    state=version.state,
                    status={"error_code": version.code.value[0], "error_message": version.message},
                )
                for version in versions
                if number in (None, version.number)
            ]
        if not statuses:
            which = "any versions" if number is None else f"version {number}"
            raise ModelServerError(StatusCode.NOT_FOUND, f"Could not find {which} of model {name}")
        return sorted(statuses, key=lambda status: -status.version)

    def configure(self, config: ServerConfig) -> frozenset[str]:
        """Replace the config; loads and unloads follow in the background. Return the names of the models that are new.

        Raises:
            ModelServerError: FAILED_PRECONDITION: `_check_labels` refuses a label; the current config stays.
        """
        with self._changed:
            self._check_labels(config)
            added = config.keys() - (self.config or {}).keys()
            self.config = config
            for name in config.keys() - self._models.keys():
                self._models[name] = Model(name)
            for name, model in self._models.items():
                model.configure(config.get(name))
            self._publish({name: dict(model.labels) for name, model in config.items()})
        self._events.put(None)
        return frozenset(added)

    def _check_labels(self, config: ServerConfig) -> None:
        """Refuse a label that would move to a version that is not available: its users would get errors."""
        served, labels = self._served
        for name, model in config.items():
            for label, version in model.labels.items():
                is_moved = labels.get(name, {}).get(label, version) != version
                if version not in served.get(name, {}) and (is_moved or not self._allow_unavailable_labels):
                    raise ModelServerError(
                        StatusCode.FAILED_PRECONDITION,
                        f"Request to assign label to version {version} of model {name}, "
                        "which is not currently available for inference",
                    )

    def reload(self, config: ServerConfig, give_up: Callable[[], bool]) -> None:
        """Replace the whole config and wait for the models that it adds, until `give_up()`, which is polled.

        Reloads are serialized: an earlier reload finishes first.

        Raises:
            ModelServerError: as `configure`.
                UNKNOWN: a new model has no available version; the new config is applied nevertheless.
        """
        while not self._reloading.acquire(timeout=_GIVE_UP_POLL_S):
            if give_up():
                return
        try:
            added = self.configure(config)
            if not self.wait_settled(added, give_up):
                return
            failed = sorted(name for name in added if not self._served[0].get(name))
            if failed:
                reasons = ", ".join(f"{{{name}: {self._last_error(config[name])}}}" for name in failed)
                raise ModelServerError(
                    StatusCode.UNKNOWN, f"{len(failed)} model(s) did not become available: {{{reasons}}}"
                )
        finally:
            self._reloading.release()

    def wait_settled(self, names: Collection[str], give_up: Callable[[], bool]) -> bool:
        """Wait until every version of these models has loaded or failed for good; return False if given up.

        Also waits for a model without any version until it has one. `give_up` is polled.
        """
        with self._changed:
            while not all(self._models[name].is_settled for name in names):
                if give_up():
                    return False
                self._changed.wait(_GIVE_UP_POLL_S)
        return True

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Lock the versions while their states change; then publish them to lookups and wake waiters."""
        with self._changed:
            yield
            self._publish(self._served[1])

    def _publish(self, labels: Labels) -> None:
        self._served = {name: model.served() for name, model in self._models.items()}, labels
        self._changed.notify_all()

    def _last_error(self, model: ModelConfig) -> str:
        messages = [version.message for version in self._models[model.name].versions.values() if version.message]
        return messages[-1] if messages else f"its versions under {model.base_path} were removed"

    def start(self) -> None:
        """Start the thread, which waits for `configure`, if that was not called already."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop loading and unloading, but let a longer load continue in the thread; served versions stay loaded."""
        self._stopping = True
        self._events.put(None)
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
        with self._changed:
            due = min([self._next_scan, *(model.next_due() for model in self._models.values())])
        return None if due == float("inf") else max(due - time.monotonic(), 0.0)

    def _wait_for_event(self, timeout_s: float | None) -> None:
        """Wait for an event and handle it; without limit if `timeout_s` is None."""
        try:
            released = self._events.get(timeout=timeout_s)
        except queue.Empty:
            return
        if released is None:
            self._next_scan = 0.0
        else:
            with self._change():
                released.state = END
            log.info("unloaded %s", released)
            _release_memory()

    def _scan_all(self) -> None:
        """Scan all base paths; if one is unreadable, no model changes, as in TensorFlow Serving."""
        self._next_scan = time.monotonic() + self._poll_s
        scans: list[tuple[ModelConfig, Mapping[int, Path]]] = []
        for config in tuple((self.config or {}).values()):
            versions = self._scan(config)
            if versions is None:
                return
            scans.append((config, versions))
        for config, versions in scans:
            with self._change():
                model = self._models[config.name]
                # Unless its config has changed since the scan.
                if model.config is config:
                    model.update_versions(versions)

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
        now = time.monotonic()
        with self._changed:
            steps = (model.next_step(now) for model in self._models.values())
            step = next((step for step in steps if step is not None), None)
        match step:
            case "load", version:
                self._load(version)
            case "unload", version:
                self._unload(version)
            case _:
                return False
        _release_memory()
        return True

    def _load(self, version: Version) -> None:
        with self._change():
            version.state = LOADING
        started = time.monotonic()
        try:
            servable = self._load_version(version.model, version.number, version.path)
        except Exception as error:  # a broken version must not affect the others
            self._load_failed(version, error)
        else:
            log.info("loaded %s in %.1f s", version, time.monotonic() - started)
            with self._change():
                version.serve(servable)

    def _load_failed(self, version: Version, error: Exception) -> None:
        code = error.code if isinstance(error, ModelServerError) else StatusCode.UNKNOWN
        message = " ".join(str(error).split()) or type(error).__name__
        num_left = self._max_retries - version.failures
        retry_at = time.monotonic() + self._retry_s if num_left > 0 else None
        what_next = f"retrying in {self._retry_s:g} s ({num_left} retries left)" if num_left > 0 else "giving up"
        log.error("%s cannot be loaded, %s: %s: %s", version, what_next, code.name, message)
        with self._change():
            version.fail(code, message, retry_at)

    def _unload(self, version: Version) -> None:
        """Release a version; it ends when the last request that uses it has released it too."""
        log.info("unloading %s", version)
        weakref.finalize(version.servable, self._events.put, version).atexit = False
        with self._change():
            version.state, version.servable = UNLOADING, None


def _release_memory() -> None:
    """Collect reference cycles, such as graphs and exceptions, and return free memory to the operating system.

    glibc keeps what is free between allocations: 16 MB after a load, and three quarters of the memory of five versions
    that were unloaded.
    """
    gc.collect()
    _LIBC.malloc_trim(0)
