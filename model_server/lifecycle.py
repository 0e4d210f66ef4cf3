"""The lifecycle of a model's versions: from found on disk to served, replaced, failed or removed.

Knows the states and their transitions. Does no IO and starts no thread; `Repository` holds the lock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Generic, TypeVar

import grpc

from model_server.config import ModelConfig
from model_server.versions import Step, next_step

S = TypeVar("S")


class State(IntEnum):
    """`ModelVersionStatus.State`, with the same numbers."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(eq=False)
class Version(Generic[S]):
    """One attempt to serve a version; a version that reappears after END is a new attempt.

    Attributes:
        model: Name of the model.
        servable: The loaded version, while AVAILABLE.
        failures: Number of failed loads.
        due: Earliest time (monotonic, s) of the next load attempt.
        wanted: Whether the version is aspired: the policy asks for it.
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
        """Whether loading has finished, successfully or not."""
        return self.state not in (State.START, State.LOADING)

    def loading(self) -> None:
        """Record that the version is being loaded."""
        self.state = State.LOADING

    def available(self, servable: S) -> None:
        """Record that the version has been loaded and may be used."""
        self.state, self.code, self.message, self.servable = State.AVAILABLE, grpc.StatusCode.OK, "", servable

    def failed(self, code: grpc.StatusCode, message: str, retry_at: float | None) -> None:
        """Record that loading has failed, and when it is tried again (monotonic, s), or that it is not."""
        self.failures, self.code, self.message = self.failures + 1, code, message
        if retry_at is None:
            self.state = State.END
        else:
            self.due = retry_at

    def unloading(self) -> None:
        """Record that no new request may use the version."""
        self.state, self.servable = State.UNLOADING, None

    def ended(self) -> None:
        """Record that the last request that used the version has finished."""
        self.state = State.END


@dataclass
class Model(Generic[S]):
    """The versions of one model.

    Attributes:
        config: None once the model is removed from the config; its versions' history stays.
        versions: By number, including ended ones.
        has_versions: Whether a version that `config` asks for was found since `config` was set.
    """

    name: str
    config: ModelConfig | None
    versions: dict[int, Version[S]] = field(default_factory=dict)
    has_versions: bool = False

    def configure(self, config: ModelConfig | None) -> None:
        """Replace the config; None unloads all versions."""
        self.config, self.has_versions = config, False
        if config is None:
            self.update_versions({})

    def update_versions(self, paths: Mapping[int, Path]) -> None:
        """Update the versions that exist on disk.

        A version that has failed for good is loaded again only after it was gone, or not wanted, in between. A served
        version stays loaded even if its directory has moved.
        """
        wanted = self.config.policy.select(paths) if self.config else frozenset()
        self.has_versions = self.has_versions or bool(wanted)
        for version in self.versions.values():
            if version.number not in wanted:
                version.wanted = False
                if not version.is_settled:
                    version.failed(grpc.StatusCode.CANCELLED, "no longer wanted before it was loaded", None)
        for number in sorted(wanted):
            version = self.versions.get(number)
            if version is None or (not version.wanted and version.state in (State.UNLOADING, State.END)):
                self.versions[number] = Version(self.name, number, paths[number])
            else:
                version.wanted = True

    def next_step(self, now: float) -> Step | None:
        """Return the next load or unload, if one is due at `now` (monotonic, s)."""
        versions = self.versions.values()
        return next_step(
            {version.number for version in versions if version.wanted},
            {version.number for version in versions if version.state is State.AVAILABLE},
            {version.number for version in versions if not version.is_settled and version.due <= now},
        )

    def next_due(self) -> float:
        """Return the time of the next load attempt (monotonic, s), infinity if there is none."""
        return min((version.due for version in self.versions.values() if not version.is_settled), default=float("inf"))

    def served(self) -> dict[int, S]:
        """Return the servable of each available version."""
        return {
            version.number: version.servable
            for version in self.versions.values()
            if version.state is State.AVAILABLE and version.servable is not None
        }

    @property
    def is_settled(self) -> bool:
        """Whether a version was found and every version has loaded or failed. False as long as there is no version."""
        return self.has_versions and all(version.is_settled for version in self.versions.values())
