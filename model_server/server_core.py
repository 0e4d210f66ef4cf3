"""TensorFlow Serving's ServerCore: the configured models and their loaded versions; all lookups and reloads."""

import contextlib
import queue
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal

from grpc import StatusCode
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from model_server.config import ModelConfig, ServerConfig
from model_server.errors import InvalidArgument, ModelServerError, ModelsUnavailable
from model_server.servable import Servable
from model_server.versions import Model, Version

# Interval at which a waiting call checks whether to give up.
_GIVE_UP_POLL_S = 0.1
# Version number of each label of each model.
Labels = Mapping[str, Mapping[str, int]]


class ServerCore:
    """The models of the config. Thread-safe: lookups take no lock, so neither loads nor reloads block requests.

    If `allow_unavailable_labels`, a new label may point to a version that is not available.

    Attributes:
        config: The current config; None until one is applied.
        events: Wakes the manager: with a version whose last user has released it, or None for another change. Unlike
            taking a lock, `put` is safe in a finalizer, which may run at any line of any thread.
    """

    def __init__(self, *, allow_unavailable_labels: bool = False) -> None:
        self._allow_unavailable_labels = allow_unavailable_labels
        self.config: ServerConfig | None = None
        self.events: queue.SimpleQueue[Version | None] = queue.SimpleQueue()
        self._models: dict[str, Model] = {}
        # What lookups read, replaced as a whole: the servable of each available version of each model, and the labels.
        self._served: tuple[Mapping[str, Mapping[int, Servable]], Labels] = {}, {}
        # Held while a config is applied and its new models are loading, as `config_mu_` of TensorFlow's ServerCore is.
        self._reloading = threading.Lock()
        # Guards config, models and what is published; notified when a state changes.
        self._changed = threading.Condition()

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
        self.events.put(None)
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
            ModelsUnavailable: a new model has no available version; the new config is applied nevertheless.
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
                raise ModelsUnavailable(f"{len(failed)} model(s) did not become available: {{{reasons}}}")
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

    def update_versions(self, config: ModelConfig, paths: Mapping[int, Path]) -> None:
        """Update a model's versions that exist on disk, unless its config has changed since the scan."""
        with self.change():
            model = self._models[config.name]
            if model.config is config:
                model.update_versions(paths)

    def next_step(self, now: float) -> tuple[Literal["load", "unload"], Version] | None:
        """Return what to do next, and with which version; None if nothing is due at `now` (monotonic, s)."""
        with self._changed:
            steps = (model.next_step(now) for model in self._models.values())
            return next((step for step in steps if step is not None), None)

    def next_due(self) -> float:
        """Return the time of the next load attempt (monotonic, s), infinity if there is none."""
        with self._changed:
            return min((model.next_due() for model in self._models.values()), default=float("inf"))

    @contextlib.contextmanager
    def change(self) -> Iterator[None]:
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
