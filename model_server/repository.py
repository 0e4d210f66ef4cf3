"""The models of the present config and their versions: who asks gets an answer, who changes does so in one place.

Knows states, labels and waiting. Knows neither folders nor TensorFlow: `Watcher` finds, loads and unloads.
"""

import queue
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import grpc

from model_server.config import ModelConfig, ServerConfig
from model_server.errors import ModelsUnavailable, ServableNotFound
from model_server.lifecycle import Model, State, Version
from model_server.lookup import Labels, Lookup, new_labels
from model_server.versions import Load, Unload

S = TypeVar("S")
# How often one who waits looks whether to give up.
_GIVE_UP_POLL_S = 0.1


class Status(NamedTuple):
    """What is told of one version; `message` is empty unless `code` is an error."""

    number: int
    state: State
    code: grpc.StatusCode
    message: str


class Repository(Generic[S]):
    """Thread-safe. Requests look up without a lock, so no load and no reload holds them up."""

    def __init__(self, *, allow_unavailable_labels: bool = False) -> None:
        """Know no model yet.

        Args:
            allow_unavailable_labels: Let a new label point at a version that is not available.
        """
        self._allow_unavailable_labels = allow_unavailable_labels
        self._lookup: Lookup[S] = Lookup()
        self._config: ServerConfig = {}
        self._models: dict[str, Model[S]] = {}
        self._is_configured = False
        # Held while a config is put in force and its new models are waited for, as ServerCore's `config_mu_` is.
        self._reloading = threading.Lock()
        # Guards all of the above but `_lookup` and `_reloading`; notified when a state changes.
        self._changed = threading.Condition()
        # What the watcher waits for: a version that its last user has let go of, or None for another change. Unlike a
        # lock, putting is safe in a finalizer, which may run within any line of any thread.
        self.events: queue.SimpleQueue[Version[S] | None] = queue.SimpleQueue()

    @property
    def config(self) -> ServerConfig:
        """What was configured last."""
        return self._config

    @property
    def is_configured(self) -> bool:
        """Whether there has been a config; the first one may list no model."""
        return self._is_configured

    def find(self, name: str, version: int | None = None, label: str | None = None) -> S:
        """Return what serves a version; see `Lookup.find`. Who holds it may use it to the end, unloaded or not."""
        return self._lookup.find(name, version, label)

    def statuses(self, name: str, number: int | None = None) -> list[Status]:
        """Return the status of a model's versions, the newest first.

        Args:
            name: Of a model that is or was in the config.
            number: The only version to tell of; None for all, those that have ended included.

        Raises:
            ServableNotFound: no such version was ever seen, or none at all.
        """
        with self._changed:
            known = self._models[name].versions.values() if name in self._models else ()
            chosen = [Status(v.number, v.state, v.code, v.message) for v in known if number in (None, v.number)]
        if not chosen:
            which = "any versions" if number is None else f"version {number}"
            raise ServableNotFound(f"Could not find {which} of model {name}")
        return sorted(chosen, reverse=True)

    def configure(self, config: ServerConfig) -> frozenset[str]:
        """Put another config in the place of the present one; what it changes follows in the background.

        Returns:
            The names of the models that were not configured before.

        Raises:
            LabelRefused: a label may not point where it does; the present config stays.
        """
        with self._changed:
            labels = new_labels(config, self._lookup, allow_unavailable=self._allow_unavailable_labels)
            added = frozenset(config.keys() - self._config.keys())
            self._config, self._is_configured = config, True
            for name in config.keys() - self._models.keys():
                self._models[name] = Model(name, None)
            for name, model in self._models.items():
                model.configure(config.get(name))
            self._publish(labels)
            self._changed.notify_all()
        self.events.put(None)
        return added

    def reload(self, config: ServerConfig, give_up: Callable[[], bool]) -> None:
        """Put another config in the place of the present one and wait for the models that it adds.

        A reload before, which still waits for its models, is waited for first.

        Args:
            config: Replaces all of the present one.
            give_up: Asked now and then; once true, nothing more is waited for.

        Raises:
            LabelRefused: a label may not point where it does; the present config stays.
            ModelsUnavailable: a new model has no available version; the new config is in force all the same.
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
        """Wait until every version of these models has been loaded or has failed for good; return whether it came so.

        A model without any version is waited for until it has one.

        Args:
            names: Of models that are configured.
            give_up: Asked now and then; once true, nothing more is waited for.
        """
        with self._changed:
            while not all(self._models[name].is_settled for name in names):
                if give_up():
                    return False
                self._changed.wait(_GIVE_UP_POLL_S)
        return True

    def found(self, config: ModelConfig, paths: Mapping[int, Path]) -> None:
        """Take note of what lies on disk for a model.

        Args:
            config: Of the model, when its folder was looked at; of no effect when it has changed since.
            paths: Folder of each version.
        """
        with self._changed:
            model = self._models[config.name]
            if model.config is config:
                model.found(paths)
                self._changed.notify_all()

    def next_step(self, now: float) -> tuple[Load | Unload, Version[S]] | None:
        """Return what to do next, and with which version; None if nothing is due at `now` (monotonic, s)."""
        with self._changed:
            for model in self._models.values():
                step = model.next_step(now)
                if step is not None:
                    return step, model.versions[step.version]
        return None

    def next_due(self) -> float:
        """Return when the next retry is due (monotonic, s), infinity if none is waiting."""
        with self._changed:
            return min((model.next_due() for model in self._models.values()), default=float("inf"))

    def update(self, change: Callable[[], None]) -> None:
        """Change a version's state, so that lookups and those who wait see it."""
        with self._changed:
            change()
            self._publish(self._lookup.labels)
            self._changed.notify_all()

    def _publish(self, labels: Labels) -> None:
        served = {name: model.served() for name, model in self._models.items()}
        self._lookup = Lookup(served, labels)

    def _last_error(self, model: ModelConfig) -> str:
        messages = [version.message for version in self._models[model.name].versions.values() if version.message]
        return messages[-1] if messages else f"its versions under {model.base_path} are gone"
