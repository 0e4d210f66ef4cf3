"""`models.config`: which models of the repository are served, in TensorFlow Serving's own text format.

Knows the file, its lock and what its policies choose. Does not know what a version holds. Imports no TensorFlow.
"""

import contextlib
import fcntl
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from contract import signatures
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
    """

    name: str
    folder: str | None
    latest: int | None = None
    specific: frozenset[int] | None = None

    def served(self, versions: Collection[int]) -> set[int]:
        """Return those of a model's versions that the entry's policy chooses."""
        if self.specific is not None:
            return self.specific & set(versions)
        return set(versions) if self.latest is None else set(sorted(versions)[-self.latest :])


def read_listings(models_dir: Path) -> list[Listing]:
    """Read the entries in their order; no file is no entry.

    Raises:
        PublishError: the file exists and cannot be parsed.
    """
    return [_listing(entry, models_dir) for entry in _read(models_dir).model_config_list.config]


@contextlib.contextmanager
def locked(models_dir: Path) -> Iterator[None]:
    """Keep other exporters from writing `models.config`: each would write the file without the other's changes."""
    with (models_dir / f".{signatures.MODELS_CONFIG}.lock").open("w") as lock:
        # Closing the file unlocks it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def add_to_models_config(models_dir: Path, name: str) -> None:
    """List a model, if it is not there yet.

    Raises:
        PublishError: the file exists and cannot be parsed.
    """
    with locked(models_dir):
        config = _read(models_dir)
        if name in {entry.name for entry in config.model_config_list.config}:
            return
        entry = config.model_config_list.config.add(name=name, base_path=str(_ROOT / name), model_platform="tensorflow")
        entry.model_version_policy.latest.num_versions = VERSIONS_KEPT
        _write(models_dir, config)


def drop_from_models_config(models_dir: Path, folder: str) -> None:
    """Take out every entry whose versions lie in a model's folder. The caller holds the lock.

    Raises:
        PublishError: the file exists and cannot be parsed.
    """
    config = _read(models_dir)
    entries = config.model_config_list.config
    dropped = [i for i, entry in enumerate(entries) if _listing(entry, models_dir).folder == folder]
    for i in reversed(dropped):
        del entries[i]
    if dropped:
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


def _read(models_dir: Path) -> _Config:
    path, config = models_dir / signatures.MODELS_CONFIG, _Config()
    with contextlib.suppress(FileNotFoundError):
        try:
            text_format.Parse(path.read_text(encoding="utf-8"), config)
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise PublishError(f"{path}: {' '.join(str(error).split())}") from error
    return config


def _write(models_dir: Path, config: _Config) -> None:
    path = models_dir / signatures.MODELS_CONFIG
    draft = path.with_name(f".{signatures.MODELS_CONFIG}.{os.getpid()}")
    draft.write_text(text_format.MessageToString(config), encoding="utf-8")
    draft.replace(path)
