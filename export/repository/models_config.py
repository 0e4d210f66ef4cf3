"""`models.config`, `labels.json` and `routing.toml`: the served models, the labels of versions and the traffic splits.

All functions raise PublishError if one of the files exists and cannot be parsed.
"""

import contextlib
import fcntl
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

from contract.errors import ContractError
from contract.files import write_atomically
from contract.models_config import (
    CONTAINER_ROOT,
    LABELS_FILE,
    STABLE,
    Shares,
    VersionPolicy,
    folder_of,
    read_labels,
    read_shares,
    version_numbers,
)
from contract.signatures import MODELS_CONFIG, ROUTING_FILE
from export.errors import PublishError

# Two versions stay loaded, so that a running generation finishes on the version that it started with.
VERSIONS_KEPT = 2
_ROUTING_HEADER = "# Traffic splits: a share per label or version of a model."


@dataclass(frozen=True)
class ConfigEntry:
    """An entry of `models.config`."""

    name: str  # of the model in requests
    folder: str | None  # the model's directory in the repository; None if its base path is elsewhere
    policy: VersionPolicy
    labels: Mapping[str, int]  # version of each label
    shares: Shares  # its traffic split, by label or version; empty without one

    def shared(self, existing: Collection[int]) -> set[int | None]:
        """Return the versions that the traffic split names."""
        labels = {STABLE: max(existing, default=None), **self.labels}
        return {int(target) if target.isdigit() else labels.get(target) for target in self.shares}

    def served_without(self, remaining: Collection[int]) -> Collection[int]:
        """Return the versions that are served once only `remaining` exist."""
        if self.policy.specific is None or not _named_versions(self.labels, self.shares):
            return self.policy.select(remaining)
        named = _named_versions(self.labels, self.shares) & frozenset(remaining)
        return _versions_to_serve(named, remaining)


@contextlib.contextmanager
def locked(models_dir: Path) -> Iterator[None]:
    """Lock `models.config` against other exporters, so that no update is lost."""
    path = models_dir / f".{MODELS_CONFIG}.lock"
    try:
        lock = path.open("w")
    except PermissionError:
        # Created by another user. On a local disk a lock needs no write permission; on NFS it does.
        lock = path.open()
    with lock:
        # Closing the file unlocks it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read_entries(models_dir: Path) -> list[ConfigEntry]:
    """Read the entries in file order; a missing file has none."""
    files = ConfigFiles(models_dir)
    return [
        ConfigEntry(
            entry.name,
            files.folder(entry),
            VersionPolicy.of(entry),
            files.labels.get(entry.name, {}),
            files.shares.get(entry.name, {}),
        )
        for entry in files.entries
    ]


def add_to_models_config(models_dir: Path, name: str) -> None:
    """Add a model to `models.config`; also serve its newest versions if its labels or split name others."""
    with locked(models_dir):
        files = ConfigFiles(models_dir)
        entry = files.find(name)
        if entry is None:
            base_path = str(CONTAINER_ROOT / name)
            entry = files.entries.add(name=name, base_path=base_path, model_platform="tensorflow")
            entry.model_version_policy.latest.num_versions = VERSIONS_KEPT
            files.write_config()
        elif files.named_versions(name):
            files.set_policy(entry)
            files.write_config()


def forget_versions(models_dir: Path, folder: str) -> None:
    """Remove versions that no longer exist from the entries of a model's directory. The caller holds the lock."""
    files = ConfigFiles(models_dir)
    entries = [entry for entry in files.entries if files.folder(entry) == folder]
    changed = [entry for entry in entries if files.named_versions(entry.name)]
    for entry in changed:
        existing = files.versions(entry)
        labels = files.labels.get(entry.name, {}).items()
        files.labels[entry.name] = {label: version for label, version in labels if version in existing}
        files.set_policy(entry)
    if changed:
        files.write_labels()
        files.write_config()


def drop_from_models_config(models_dir: Path, folder: str) -> None:
    """Remove all entries of a model's directory, their labels and traffic splits. The caller holds the lock."""
    files = ConfigFiles(models_dir)
    dropped = [entry for entry in files.entries if files.folder(entry) == folder]
    names = {entry.name for entry in dropped}
    for entry in dropped:
        files.entries.remove(entry)
    if names & files.labels.keys():
        files.labels = {name: labels for name, labels in files.labels.items() if name not in names}
        files.write_labels()
    if names & files.shares.keys():
        files.shares = {name: shares for name, shares in files.shares.items() if name not in names}
        files.write_shares()
    if dropped:
        files.write_config()


class ConfigFiles:
    """The content of the three files. A writer holds the lock from reading to writing."""

    def __init__(self, models_dir: Path) -> None:
        self._models_dir, self._path = models_dir, models_dir / MODELS_CONFIG
        self._config = ModelServerConfig()
        with contextlib.suppress(FileNotFoundError):
            self._parse(self._path.read_bytes())
        self.entries = self._config.model_config_list.config
        try:
            self.labels = read_labels(models_dir)
            self.shares = read_shares(models_dir / ROUTING_FILE)
        except ContractError as error:
            raise PublishError(str(error)) from error

    def _parse(self, content: bytes) -> None:
        try:
            text_format.Parse(content.decode(), self._config)
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise PublishError(f"{self._path}: {' '.join(str(error).split())}") from error
        if not self._config.HasField("model_config_list"):
            # Writing it back with a single entry would make model servers unload all other models.
            raise PublishError(
                f"{self._path}: it has no model_config_list, so it is damaged: restore it, or delete it to start over"
            )

    def find(self, name: str) -> ModelConfig | None:
        return next((entry for entry in self.entries if entry.name == name), None)

    def folder(self, entry: ModelConfig) -> str | None:
        return folder_of(entry, self._models_dir)

    def versions(self, entry: ModelConfig) -> list[int]:
        """Return the numbers of the versions in an entry's base path, ascending."""
        folder = self.folder(entry)
        home = self._models_dir / (folder or "")
        return version_numbers(home) if folder is not None and home.is_dir() else []

    def named_versions(self, name: str) -> frozenset[int]:
        """Return the versions of a model that a label or its traffic split names."""
        return _named_versions(self.labels.get(name, {}), self.shares.get(name, {}))

    def set_policy(self, entry: ModelConfig) -> None:
        """Set the version policy of an entry by its labels and its traffic split: what these name, and the newest.

        With "latest", model servers would unload a labeled version once there are newer ones.
        """
        policy = entry.model_version_policy
        choice = policy.WhichOneof("policy_choice")
        if choice == "all":
            return
        existing = self.versions(entry)
        # A hand-written split may name a version that does not exist, which a starting model server would wait for.
        labeled = frozenset(self.labels.get(entry.name, {}).values())
        if named := self.named_versions(entry.name) & frozenset(existing) | labeled:
            policy.specific.versions[:] = _versions_to_serve(named, existing)
        elif choice == "specific":
            policy.latest.num_versions = VERSIONS_KEPT

    def write_config(self) -> None:
        write_atomically(self._path, text_format.MessageToString(self._config))

    def write_labels(self) -> None:
        """Write `labels.json` without the models that have no labels."""
        document = {name: dict(sorted(labels.items())) for name, labels in sorted(self.labels.items()) if labels}
        write_atomically(self._models_dir / LABELS_FILE, json.dumps(document, indent=1) + "\n")

    def write_shares(self) -> None:
        """Write `routing.toml` without the models that have no split; the strings of JSON are those of TOML."""
        lines = [_ROUTING_HEADER]
        for name, shares in sorted(self.shares.items()):
            if shares:
                lines += ["", f"[{json.dumps(name)}]", *(f"{target} = {share}" for target, share in shares.items())]
        write_atomically(self._models_dir / ROUTING_FILE, "\n".join(lines) + "\n")


def _named_versions(labels: Mapping[str, int], shares: Shares) -> frozenset[int]:
    return frozenset(labels.values()) | frozenset(int(target) for target in shares if target.isdigit())


def _versions_to_serve(named: Collection[int], existing: Collection[int]) -> list[int]:
    return sorted({*named, *sorted(existing)[-VERSIONS_KEPT:]})
