"""The configured models and the states of their versions; all lookups and all changes go through it.

Knows states, labels and waiting. Does not know directories or TensorFlow: `Watcher` scans, loads and unloads.
"""

import queue
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Generic, Literal, NamedTuple, TypeVar

import grpc

from model_server.config import ModelConfig, ServerConfig
from model_server.errors import ModelsUnavailable, ServableNotFound
from model_server.lifecycle import Model, State, Version
from model_server.lookup import Labels, Lookup, new_labels

S = TypeVar("S")
# Interval at which a waiting call checks whether to give up.
_GIVE_UP_POLL_S = 0.1


class Status(NamedTuple):
    """Status of one version; `message` is empty unless `code` is an error."""

    number: int
    state: State
    code: grpc.StatusCode
    message: str


class Repository(Generic[S]):
    """A thread-safe registry of models. Lookups take no lock, so neither loads nor reloads block requests.

    If `allow_unavailable_labels`, a new label may point to a version that is not available.

    Attributes:
        config: The current config.
        is_configured: Whether a config was applied, even one without models.
    """

    def __init__(self, *, allow_unavailable_labels: bool = False) -> None:
        self._allow_unavailable_labels = allow_unavailable_labels
        self._lookup: Lookup[S] = Lookup()
        self.config: ServerConfig = {}
        self.is_configured = False
        self._models: dict[str, Model[S]] = {}
        # Held while a config is applied and its new models are loading, as `config_mu_` of TensorFlow's ServerCore is.
        self._reloading = threading.Lock()
        # Guards all of the above but `_lookup` and `_reloading`; notified when a state changes.
        self._changed = threading.Condition()
        # Wakes the watcher: with a version whose last user has released it, or None for another change. Unlike taking
        # a lock, `put` is safe in a finalizer, which may run at any line of any thread.
        self.events: queue.SimpleQueue[Version[S] | None] = queue.SimpleQueue()

    def find(self, name: str, version: int | None = None, label: str | None = None) -> S:
        """Return the servable of a version; see `Lookup.find`. It stays usable even when it is unloaded meanwhile."""
        return self._lookup.find(name, version, label)

    def statuses(self, name: str, number: int | None = None) -> list[Status]:
        """Return the status of a model's versions, newest first, or of one; ended ones and former models included.

        Raises:
            ServableNotFound: the version, or any version of the model, was never found.
        """
        with self._changed:
            versions = self._models[name].versions.values() if name in self._models else ()
            statuses = [Status(v.number, v.state, v.code, v.message) for v in versions if number in (None, v.number)]
        if not statuses:
            which = "any versions" if number is None else f"version {number}"
            raise ServableNotFound(f"Could not find {which} of model {name}")
        return sorted(statuses, reverse=True)

    def configure(self, config: ServerConfig) -> frozenset[str]:
        """Replace the config; loads and unloads follow in the background. Return the names of the models that are new.

        Raises:
            LabelRefused: a label points to a version that is not available; the current config stays.
        """
        with self._changed:
            labels = new_labels(config, self._lookup, allow_unavailable=self._allow_unavailable_labels)
            added = frozenset(config.keys() - self.config.keys())
            self.config, self.is_configured = config, True
            for name in config.keys() - self._models.keys():
                self._models[name] = Model(name, None)
            for name, model in self._models.items():
                model.configure(config.get(name))
            self._publish(labels)
            self._changed.notify_all()
        self.events.put(None)
        return added

    def reload(self, config: ServerConfig, give_up: Callable[[], bool]) -> None:
        """Replace the whole config and wait for the models that it adds, until `give_up()`, which is polled.

        Reloads are serialized: an earlier reload finishes first.

        Raises:
            LabelRefused: a label points to a version that is not available; the current config stays.
            ModelsUnavailable: a new model has no available version; the new config is applied nevertheless.
        """
        while not self._reloading.acquire(timeout=_GIVE_UP_POLL_S):
            if give_up():
                return
        try:
            self._reload(config, give_up)
        finally:
            self._reloading.release()

    def _reload(self, config: ServerConfig, give_up: Callable[[], bool]) -> None:
        added = self.configure(config)
        if not self.wait_settled(added, give_up):
            return
        failed = sorted(name for name in added if not self._lookup.served.get(name))
        if failed:
            reasons = ", ".join(f"{{{name}: {self._last_error(config[name])}}}" for name in failed)
            raise ModelsUnavailable(f"{len(failed)} model(s) did not become available: {{{reasons}}}")

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
        """Update a model's versions that exist on disk, by their directories.

        Without effect if the model's config has changed since the scan.
        """
        with self._changed:
            model = self._models[config.name]
            if model.config is config:
                model.update_versions(paths)
                self._changed.notify_all()

    def next_step(self, now: float) -> tuple[Literal["load", "unload"], Version[S]] | None:
        """Return what to do next, and with which version; None if nothing is due at `now` (monotonic, s)."""
        with self._changed:
            for model in self._models.values():
                step = model.next_step(now)
                if step is not None:
                    return step.action, model.versions[step.version]
        return None

    def next_due(self) -> float:
        """Return the time of the next load attempt (monotonic, s), infinity if there is none."""
        with self._changed:
            return min((model.next_due() for model in self._models.values()), default=float("inf"))

    def update(self, change: Callable[[], None]) -> None:
        """Change a version's state, publish it to lookups and wake waiters."""
        with self._changed:
            change()
            self._publish(self._lookup.labels)
            self._changed.notify_all()

    def _publish(self, labels: Labels) -> None:
        served = {name: model.served() for name, model in self._models.items()}
        self._lookup = Lookup(served, labels)

    def _last_error(self, model: ModelConfig) -> str:
        messages = [version.message for version in self._models[model.name].versions.values() if version.message]
        return messages[-1] if messages else f"its versions under {model.base_path} were removed"
