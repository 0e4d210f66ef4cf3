"""`models.config` and `labels.json`: which models of the repository are served, and the labels of their versions.

Knows the files, their lock and the version policies. Does not know the contents of a version. Imports no TensorFlow.
"""

import contextlib
import fcntl
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from contract import signatures
from contract.errors import LabelsError
from contract.files import write_atomically
from contract.labels import LABELS_FILE, Labels, read_labels
from contract.models_config import CONTAINER_ROOT, VersionPolicy, folder_of, version_numbers
from export.errors import PublishError

# Two versions stay loaded, so that a running generation finishes on the version that it started with.
VERSIONS_KEPT = 2
_Config = model_server_config_pb2.ModelServerConfig


@dataclass(frozen=True)
class ConfigEntry:
    """An entry of `models.config`.

    Attributes:
        name: Name of the model in requests.
        folder: The model's directory in the repository; None if its base path is elsewhere.
        labels: Version of each label.
    """

    name: str
    folder: str | None
    policy: VersionPolicy
    labels: Mapping[str, int]

    def served_without(self, remaining: Collection[int]) -> Collection[int]:
        """Return the versions that are served once only `remaining` exist."""
        if self.policy.specific is None or not self.labels:
            return self.policy.select(remaining)
        labels = {label: version for label, version in self.labels.items() if version in remaining}
        return _versions_to_serve(labels, remaining)


def read_entries(models_dir: Path) -> list[ConfigEntry]:
    """Read the entries in file order; a missing file has none.

    Raises:
        PublishError: the file exists and cannot be parsed.
    """
    labels = _read_labels(models_dir)
    return [
        ConfigEntry(entry.name, folder_of(entry, models_dir), VersionPolicy.of(entry), labels.get(entry.name, {}))
        for entry in _read(models_dir).model_config_list.config
    ]


@contextlib.contextmanager
def locked(models_dir: Path) -> Iterator[None]:
    """Lock `models.config` against other exporters, so that no update is lost."""
    path = models_dir / f".{signatures.MODELS_CONFIG}.lock"
    try:
        lock = path.open("w")
    except PermissionError:
        # Another user created it. On a local disk a lock needs no permission to write; on NFS it does.
        lock = path.open()
    with lock:
        # Closing the file unlocks it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def add_to_models_config(models_dir: Path, name: str) -> None:
    """Add a model to `models.config`; if it is listed and has labels, make its newest versions served too.

    Raises:
        PublishError: the file exists and cannot be parsed.
    """
    with locked(models_dir):
        config = _read(models_dir)
        listed = [entry for entry in config.model_config_list.config if entry.name == name]
        if listed:
            labels = _read_labels(models_dir).get(name)
            if labels:
                _set_policy(listed[0], models_dir, labels)
                _write(models_dir, config)
            return
        base_path = str(CONTAINER_ROOT / name)
        entry = config.model_config_list.config.add(name=name, base_path=base_path, model_platform="tensorflow")
        entry.model_version_policy.latest.num_versions = VERSIONS_KEPT
        _write(models_dir, config)


def change_labels(
    models_dir: Path, name: str, change: Callable[[dict[str, int], list[int]], dict[str, int]]
) -> dict[str, int]:
    """Change the labels of a model, and return them; serve the labelled versions and the two newest ones.

    `change` maps the current labels and the existing versions, ascending, to the new labels. It may raise to reject the
    change.

    Raises:
        PublishError: the model is not listed, or one of the files cannot be read.
    """
    with locked(models_dir):
        config, all_labels = _read(models_dir), _read_labels(models_dir)
        entry = next((entry for entry in config.model_config_list.config if entry.name == name), None)
        if entry is None:
            raise PublishError(f"{name} is not in {models_dir / signatures.MODELS_CONFIG}: no version of it is served")
        before = all_labels.get(name, {})
        labels = change(dict(before), _versions(entry, models_dir))
        if labels != before:
            # Serve a version before a label points at it.
            _set_policy(entry, models_dir, labels)
            _write(models_dir, config)
            _write_labels(models_dir, {**all_labels, name: labels})
        return labels


def forget_versions(models_dir: Path, folder: str) -> None:
    """Remove versions that no longer exist from the entries of a model's directory. The caller holds the lock.

    Raises:
        PublishError: the file cannot be parsed.
    """
    config, all_labels = _read(models_dir), _read_labels(models_dir)
    changed = [
        entry
        for entry in config.model_config_list.config
        if all_labels.get(entry.name) and folder_of(entry, models_dir) == folder
    ]
    for entry in changed:
        existing, labels = set(_versions(entry, models_dir)), all_labels[entry.name]
        all_labels[entry.name] = {label: version for label, version in labels.items() if version in existing}
        _set_policy(entry, models_dir, all_labels[entry.name])
    if changed:
        _write_labels(models_dir, all_labels)
        _write(models_dir, config)


def drop_from_models_config(models_dir: Path, folder: str) -> None:
    """Remove all entries of a model's directory. The caller holds the lock.

    Raises:
        PublishError: the file exists and cannot be parsed.
    """
    config = _read(models_dir)
    entries = config.model_config_list.config
    dropped = [i for i, entry in enumerate(entries) if folder_of(entry, models_dir) == folder]
    names = {entries[i].name for i in dropped}
    for i in reversed(dropped):
        del entries[i]
    if dropped:
        labels = _read_labels(models_dir)
        if names & labels.keys():
            _write_labels(models_dir, {name: of_model for name, of_model in labels.items() if name not in names})
        _write(models_dir, config)


def _versions(entry: model_server_config_pb2.ModelConfig, models_dir: Path) -> list[int]:
    """Return the numbers of the versions in an entry's base path, ascending."""
    folder = folder_of(entry, models_dir)
    home = models_dir / (folder or "")
    return version_numbers(home) if folder is not None and home.is_dir() else []


def _versions_to_serve(labels: Mapping[str, int], versions: Collection[int]) -> list[int]:
    """Return the versions to serve of a model with labels: the labelled ones and the newest."""
    return sorted({*labels.values(), *sorted(versions)[-VERSIONS_KEPT:]})


def _set_policy(entry: model_server_config_pb2.ModelConfig, models_dir: Path, labels: Mapping[str, int]) -> None:
    """Set the version policy of an entry: the labelled versions and the newest ones; without labels, the newest ones.

    With "latest", model servers would unload a labelled version once there are newer ones.
    """
    policy = entry.model_version_policy
    if policy.WhichOneof("policy_choice") == "all":
        return
    if labels:
        policy.specific.versions[:] = _versions_to_serve(labels, _versions(entry, models_dir))
    else:
        policy.latest.num_versions = VERSIONS_KEPT


def _read(models_dir: Path) -> _Config:
    path, config = models_dir / signatures.MODELS_CONFIG, _Config()
    with contextlib.suppress(FileNotFoundError):
        try:
            text_format.Parse(path.read_text(encoding="utf-8"), config)
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise PublishError(f"{path}: {' '.join(str(error).split())}") from error
        if not config.HasField("model_config_list"):
            # Writing it back with a single entry would make model servers unload all other models.
            raise PublishError(
                f"{path}: it has no model_config_list, so it is damaged: restore it, or delete it to start over"
            )
    return config


def _write(models_dir: Path, config: _Config) -> None:
    write_atomically(models_dir / signatures.MODELS_CONFIG, text_format.MessageToString(config))


def _read_labels(models_dir: Path) -> Labels:
    try:
        return read_labels(models_dir)
    except LabelsError as error:
        raise PublishError(str(error)) from error


def _write_labels(models_dir: Path, labels: Labels) -> None:
    """Write `labels.json` without the models that have no labels."""
    document = {name: dict(sorted(of_model.items())) for name, of_model in sorted(labels.items()) if of_model}
    write_atomically(models_dir / LABELS_FILE, json.dumps(document, indent=1) + "\n")
