"""The life of one model's versions: from found on disk to served, replaced, failed or gone.

Knows the states and what may follow what. Does no IO and starts no thread; `Repository` holds the lock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Generic, TypeVar

import grpc

from model_server.config import ModelConfig
from model_server.versions import Load, Unload, aspired, next_step

S = TypeVar("S")


class State(IntEnum):
    """Numbers of `ModelVersionStatus.State`."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(eq=False)
class Version(Generic[S]):
    """One attempt at serving one version; a number that comes back after it has ended is a new attempt.

    Attributes:
        model: Name of the model.
        servable: What serves it, while it is AVAILABLE.
        failures: How often loading it has failed.
        due: Time (monotonic, s) before which it is not tried again.
        wanted: Whether the policy asks for it.
    """

    model: str
    number: int
    path: Path
    state: State = State.START
    code: grpc.StatusCode = grpc.StatusCode.OK
    message: str = ""
    servable: S | None = None
    failures: int = 0
    due: float = 0.0
    wanted: bool = True

    def __str__(self) -> str:
        return f"{self.model} version {self.number}"

    @property
    def is_settled(self) -> bool:
        """Whether loading it has come to an end, good or bad."""
        return self.state not in (State.START, State.LOADING)

    def loading(self) -> None:
        """Note that it is being loaded."""
        self.state = State.LOADING

    def available(self, servable: S) -> None:
        """Note that it has been loaded and may be used."""
        self.state, self.code, self.message, self.servable = State.AVAILABLE, grpc.StatusCode.OK, "", servable

    def failed(self, code: grpc.StatusCode, message: str, retry_at: float | None) -> None:
        """Note that loading it has failed.

        Args:
            code: Never OK.
            message: What went wrong.
            retry_at: When to try again (monotonic, s); None gives it up.
        """
        self.failures, self.code, self.message = self.failures + 1, code, message
        if retry_at is None:
            self.state = State.END
        else:
            self.due = retry_at

    def unloading(self) -> None:
        """Note that no new request may use it."""
        self.state, self.servable = State.UNLOADING, None

    def ended(self) -> None:
        """Note that the last request that used it is done."""
        self.state = State.END


@dataclass
class Model(Generic[S]):
    """The versions of one model.

    Attributes:
        config: None once the model has left the config; its history stays.
        versions: By number, those that have ended included.
        found_any: Whether a version that `config` asks for was found since `config` was set.
    """

    name: str
    config: ModelConfig | None
    versions: dict[int, Version[S]] = field(default_factory=dict)
    found_any: bool = False

    def configure(self, config: ModelConfig | None) -> None:
        """Follow another config from now on; without one, everything goes."""
        self.config, self.found_any = config, False
        if config is None:
            self.found({})

    def found(self, paths: Mapping[int, Path]) -> None:
        """Take note of the versions on disk.

        A version that has failed is tried again only after it has been gone, or not wanted, in between. One that is
        served stays, wherever its folder lies now.
        """
        wanted = aspired(self.config.policy, paths) if self.config else frozenset()
        self.found_any = self.found_any or bool(wanted)
        for version in self.versions.values():
            if version.number not in wanted:
                version.wanted = False
                if not version.is_settled:
                    version.failed(grpc.StatusCode.CANCELLED, "no longer wanted before it was loaded", None)
        for number in sorted(wanted):
            known = self.versions.get(number)
            if known is None or (not known.wanted and known.state in (State.UNLOADING, State.END)):
                self.versions[number] = Version(self.name, number, paths[number])
            else:
                known.wanted = True

    def next_step(self, now: float) -> Load | Unload | None:
        """Return what to do next, if anything is due at `now` (monotonic, s)."""
        known = self.versions.values()
        return next_step(
            {version.number for version in known if version.wanted},
            {version.number for version in known if version.state is State.AVAILABLE},
            {version.number for version in known if not version.is_settled and version.due <= now},
        )

    def next_due(self) -> float:
        """Return when the next retry is due (monotonic, s), infinity if none is waiting."""
        return min((version.due for version in self.versions.values() if not version.is_settled), default=float("inf"))

    def served(self) -> dict[int, S]:
        """Return what serves each available version."""
        return {
            version.number: version.servable
            for version in self.versions.values()
            if version.state is State.AVAILABLE and version.servable is not None
        }

    @property
    def is_settled(self) -> bool:
        """Whether a version was found, and each has loaded or failed. Without one a model is waited for, for ever."""
        return self.found_any and all(version.is_settled for version in self.versions.values())
