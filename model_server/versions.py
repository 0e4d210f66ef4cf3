"""A model's versions: those found on disk, and each one's way to being served, replaced, failed or removed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from grpc import StatusCode
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from contract.models_config import version_number
from model_server.config import ModelConfig
from model_server.saved_model import SAVED_MODEL_FILE
from model_server.servable import Servable

START, LOADING, AVAILABLE, UNLOADING, END = (
    ModelVersionStatus.State.Value(name) for name in ("START", "LOADING", "AVAILABLE", "UNLOADING", "END")
)


def scan(base_path: Path) -> tuple[dict[int, Path], list[str]]:
    """Return the directory of each version under a base path, and a line for each ignored entry.

    Raises:
        OSError: the directory is missing or unreadable, so its versions are unknown.
    """
    versions: dict[int, Path] = {}
    problems = []
    for path in sorted(base_path.iterdir()):
        if path.name.startswith("."):
            # The exporter made it: a draft, or a file of its own.
            continue
        version = version_number(path.name)
        try:
            has_saved_model = (path / SAVED_MODEL_FILE).is_file()
        except PermissionError as error:
            # Only this entry is unreadable. After another error, such as NFS's, a served version must not seem gone.
            problems.append(f"{path}: {error.strerror}")
            continue
        if version is None:
            problems.append(f"{path}: not a version, its name is not a number")
        elif not has_saved_model:
            problems.append(f"{path}: not a version (yet), it has no {SAVED_MODEL_FILE}")
        else:
            if version in versions:
                problems.append(f"{versions[version]}: skipped, {path.name} is the same version")
            # As in TensorFlow Serving, the last one by name: without leading zeros.
            versions[version] = path
    # A directory that was renamed or unmounted meanwhile seems to have no versions, and all would be unloaded.
    base_path.stat()
    return versions, problems


@dataclass(eq=False)
class Version:
    """One attempt to serve a version; a version that reappears after END is a new attempt.

    Attributes:
        model: Name of the model.
        state: `START` to `END`.
        code: OK, or why loading failed.
        servable: The loaded version, while AVAILABLE.
        failures: Number of failed loads.
        due: Earliest time (monotonic, s) of the next load attempt.
        is_aspired: Whether the policy asks for the version.
    """

    model: str
    number: int
    path: Path
    state: int = START
    code: StatusCode = StatusCode.OK
    message: str = ""
    servable: Servable | None = None
    failures: int = 0
    due: float = 0.0
    is_aspired: bool = True

    def __str__(self) -> str:
        return f"{self.model} version {self.number}"

    @property
    def is_settled(self) -> bool:
        """Whether loading has finished, successfully or not."""
        return self.state not in (START, LOADING)

    def serve(self, servable: Servable) -> None:
        """Record that loading has succeeded."""
        self.state, self.servable, self.code, self.message = AVAILABLE, servable, StatusCode.OK, ""

    def fail(self, code: StatusCode, message: str, retry_at: float | None) -> None:
        """Record that loading has failed, and when it is tried again (monotonic, s), or that it is not."""
        self.failures, self.code, self.message = self.failures + 1, code, message
        if retry_at is None:
            self.state = END
        else:
            self.due = retry_at


@dataclass
class Model:
    """The versions of one model.

    Attributes:
        config: None once the model is removed from the config; its versions' history stays.
        versions: By number, including ended ones.
        has_versions: Whether a version that `config` asks for was found since `config` was set.
    """

    name: str
    config: ModelConfig | None = None
    versions: dict[int, Version] = field(default_factory=dict)
    has_versions: bool = False

    def configure(self, config: ModelConfig | None) -> None:
        """Replace the config; None unloads all versions."""
        self.config, self.has_versions = config, False
        if config is None:
            self.update_versions({})

    def update_versions(self, paths: Mapping[int, Path]) -> None:
        """Update the versions that exist on disk.

        A version that has failed for good is loaded again only after it was gone, or not aspired, in between. A served
        version stays loaded even if its directory has moved.
        """
        aspired = self.config.policy.select(paths) if self.config else frozenset()
        self.has_versions = self.has_versions or bool(aspired)
        for version in self.versions.values():
            if version.number not in aspired:
                version.is_aspired = False
                if not version.is_settled:
                    version.fail(StatusCode.CANCELLED, "no longer wanted before it was loaded", None)
        for number in sorted(aspired):
            version = self.versions.get(number)
            if version is None or (not version.is_aspired and version.state in (UNLOADING, END)):
                self.versions[number] = Version(self.name, number, paths[number])
            else:
                version.is_aspired = True

    def next_step(self, now: float) -> tuple[Literal["load", "unload"], Version] | None:
        """Return the next load or unload at `now` (monotonic, s), by TensorFlow Serving's AvailabilityPreservingPolicy.

        A version that is not aspired is unloaded once an aspired one is available, or when none is aspired. Until then
        the newest of them stays, so a new version that fails to load causes no outage.
        """
        newest_first = sorted(self.versions.values(), key=lambda version: -version.number)
        available = [version for version in newest_first if version.state == AVAILABLE]
        surplus = [version for version in available if not version.is_aspired]
        if len(surplus) > 1 or (
            surplus and (len(surplus) < len(available) or not any(version.is_aspired for version in newest_first))
        ):
            return "unload", surplus[-1]
        loadable = (version for version in newest_first if not version.is_settled and version.due <= now)
        return next((("load", version) for version in loadable), None)

    def next_due(self) -> float:
        """Return the time of the next load attempt (monotonic, s), infinity if there is none."""
        return min((version.due for version in self.versions.values() if not version.is_settled), default=float("inf"))

    def served(self) -> dict[int, Servable]:
        return {number: version.servable for number, version in self.versions.items() if version.servable is not None}

    @property
    def is_settled(self) -> bool:
        """Whether a version was found and every version has loaded or failed. False as long as there is no version."""
        return self.has_versions and all(version.is_settled for version in self.versions.values())
