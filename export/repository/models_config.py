"""`models.config` and `labels.json`: which models of the repository are served, and what their versions are called.

Knows the file, its lock and what its policies choose. Does not know what a version holds. Imports no TensorFlow.
"""

import contextlib
import fcntl
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from contract import signatures
from contract.errors import LabelsError
from contract.files import write_atomically
from contract.labels import LABELS_FILE, Labels, read_labels
from export.errors import PublishError

# Two versions stay loaded: a running generation ends on the one it began with.
VERSIONS_KEPT = 2
# Base paths are those inside TensorFlow Serving's container; `model_server` maps this to the repository.
_ROOT = PurePosixPath("/models")
_Config = model_server_config_pb2.ModelServerConfig


@dataclass(frozen=True)
class Listing:
    """An entry of `models.config`.

    Attributes:
        name: What requests call the model.
        folder: The model's folder in the repository; None where it lies elsewhere.
        latest: How many of the newest versions are served; None where `specific` says which, or all are.
        specific: Versions that are served; None where not these are named.
        labels: Version of each label.
    """

    name: str
    folder: str | None
    latest: int | None = None
    specific: frozenset[int] | None = None
    labels: Mapping[str, int] = field(default_factory=dict)

    def served(self, versions: Collection[int]) -> set[int]:
        """Return those of a model's versions that the entry's policy chooses."""
        if self.specific is not None:
            return self.specific & set(versions)
        return set(versions) if self.latest is None else set(sorted(versions)[-self.latest :])

    def served_without(self, left: Collection[int]) -> set[int]:
        """Return what is served when only these are left of a model's versions."""
        if self.specific is None or not self.labels:
            return self.served(left)
        return set(_chosen({label: version for label, version in self.labels.items() if version in left}, left))


def read_listings(models_dir: Path) -> list[Listing]:
    """Read the entries in their order; no file is no entry.

    Raises:
        PublishError: the file exists and cannot be parsed.
    """
    labels = _read_labels(models_dir)
    return [
        replace(_listing(entry, models_dir), labels=labels.get(entry.name, {}))
        for entry in _read(models_dir).model_config_list.config
    ]


@contextlib.contextmanager
def locked(models_dir: Path) -> Iterator[None]:
    """Keep other exporters from writing `models.config`: each would write the file without the other's changes."""
    with (models_dir / f".{signatures.MODELS_CONFIG}.lock").open("w") as lock:
        # Closing the file unlocks it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def add_to_models_config(models_dir: Path, name: str) -> None:
    """List a model if it is not there yet; one whose versions have labels is to serve its newest, too.

    Raises:
        PublishError: the file exists and cannot be parsed.
    """
    with locked(models_dir):
        config = _read(models_dir)
        listed = [entry for entry in config.model_config_list.config if entry.name == name]
        if listed:
            labels = _read_labels(models_dir).get(name)
            if labels:
                _choose(listed[0], models_dir, labels)
                _write(models_dir, config)
            return
        entry = config.model_config_list.config.add(name=name, base_path=str(_ROOT / name), model_platform="tensorflow")
        entry.model_version_policy.latest.num_versions = VERSIONS_KEPT
        _write(models_dir, config)


def change_labels(
    models_dir: Path, name: str, change: Callable[[dict[str, int], list[int]], dict[str, int]]
) -> dict[str, int]:
    """Give a model other labels; what they point at is served from then on, with its two newest versions.

    Args:
        models_dir: The repository.
        name: What requests call the model.
        change: From the labels so far, and the versions that there are, ascending, to the new labels. It may raise
            whatever refuses the change.

    Returns:
        The new labels.

    Raises:
        PublishError: the model is not listed, or one of the files cannot be read.
    """
    with locked(models_dir):
        config, every = _read(models_dir), _read_labels(models_dir)
        entry = next((entry for entry in config.model_config_list.config if entry.name == name), None)
        if entry is None:
            raise PublishError(f"{name} is not in {models_dir / signatures.MODELS_CONFIG}: no version of it is served")
        before = every.get(name, {})
        labels = change(dict(before), _versions(entry, models_dir))
        if labels != before:
            # First it is to be served, then to be called so.
            _choose(entry, models_dir, labels)
            _write(models_dir, config)
            _write_labels(models_dir, {**every, name: labels})
        return labels


def forget_versions(models_dir: Path, folder: str) -> None:
    """Let the entries of a model's folder name no version that is not there. The caller holds the lock.

    Raises:
        PublishError: the file cannot be parsed.
    """
    config, every = _read(models_dir), _read_labels(models_dir)
    changed = [
        entry
        for entry in config.model_config_list.config
        if every.get(entry.name) and _listing(entry, models_dir).folder == folder
    ]
    for entry in changed:
        there = set(_versions(entry, models_dir))
        every[entry.name] = {label: version for label, version in every[entry.name].items() if version in there}
        _choose(entry, models_dir, every[entry.name])
    if changed:
        _write_labels(models_dir, every)
        _write(models_dir, config)


def drop_from_models_config(models_dir: Path, folder: str) -> None:
    """Take out every entry whose versions lie in a model's folder. The caller holds the lock.

    Raises:
        PublishError: the file exists and cannot be parsed.
    """
    config = _read(models_dir)
    entries = config.model_config_list.config
    dropped = [i for i, entry in enumerate(entries) if _listing(entry, models_dir).folder == folder]
    names = {entries[i].name for i in dropped}
    for i in reversed(dropped):
        del entries[i]
    if dropped:
        labels = _read_labels(models_dir)
        if names & labels.keys():
            _write_labels(models_dir, {name: of_model for name, of_model in labels.items() if name not in names})
        _write(models_dir, config)


def _listing(entry: model_server_config_pb2.ModelConfig, models_dir: Path) -> Listing:
    path, policy = PurePosixPath(entry.base_path), entry.model_version_policy
    folder = path.name if path.parent in (_ROOT, PurePosixPath(models_dir.resolve())) else None
    match policy.WhichOneof("policy_choice"):
        case "all":
            return Listing(entry.name, folder)
        case "specific":
            return Listing(entry.name, folder, specific=frozenset(policy.specific.versions))
        case _:
            return Listing(entry.name, folder, latest=max(policy.latest.num_versions, 1))


def _versions(entry: model_server_config_pb2.ModelConfig, models_dir: Path) -> list[int]:
    """Return the numbers of the versions that lie where an entry says, ascending."""
    folder = _listing(entry, models_dir).folder
    home = models_dir / (folder or "")
    return version_numbers(home) if folder is not None and home.is_dir() else []


def version_numbers(home: Path) -> list[int]:
    """Return the numbers of the versions in a model's folder, ascending.

    Raises:
        OSError: it is no folder, or may not be read.
    """
    return sorted(int(path.name) for path in home.iterdir() if path.name.isascii() and path.name.isdigit())


def _chosen(labels: Mapping[str, int], versions: Collection[int]) -> list[int]:
    """Return which of a model's versions are served where there are labels: those that have one, and the newest."""
    return sorted({*labels.values(), *sorted(versions)[-VERSIONS_KEPT:]})


def _choose(entry: model_server_config_pb2.ModelConfig, models_dir: Path, labels: Mapping[str, int]) -> None:
    """Have the versions served that have a label, and the newest ones; without labels just these.

    "latest" would unload what a label points at once there are newer ones.
    """
    policy = entry.model_version_policy
    if policy.WhichOneof("policy_choice") == "all":
        return
    if labels:
        policy.specific.versions[:] = _chosen(labels, _versions(entry, models_dir))
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
            # Written back with a single entry, it would have model servers unload all others.
            raise PublishError(
                f"{path}: there is no model_config_list in it, so it is damaged: restore it, or delete it to start over"
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
    """Write the file anew; models without labels are left out."""
    kept = {name: dict(sorted(of_model.items())) for name, of_model in sorted(labels.items()) if of_model}
    write_atomically(models_dir / LABELS_FILE, json.dumps(kept, indent=1) + "\n")
