"""`models.config`, `labels.json` and `routing.toml`: which versions are served, their labels and the traffic splits.

Exporters write labels and splits, gateways read them. Labels are not in `models.config`: when a label there moves to a
version that is not loaded yet, TensorFlow Serving rejects the whole file, so the version never loads. Gateways wait for
the version. TensorFlow Serving's messages are arguments.
"""

import json
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

from contract.errors import ContractError
from contract.files import read_file

# Directory of the models in TensorFlow Serving's container, and so in a config file for both servers.
CONTAINER_ROOT = PurePosixPath("/models")
LABELS_FILE = "labels.json"
# Default label of requests that name only a model.
STABLE = "stable"
LABEL_PATTERN = "[a-z][a-z0-9_-]{0,31}"

# Of a label or version in a traffic split.
MAX_SHARE = 1e9

# Label of the version that was stable before, which a rollback returns to.
PREVIOUS = "previous"
# TensorFlow Serving's version numbers are signed 64-bit integers.
_MAX_VERSION = 2**63 - 1

# Model name to label to version.
Labels = dict[str, dict[str, int]]
# Traffic split of a model: shares by label or version, as in the file.
Shares = Mapping[str, float]


@dataclass(frozen=True)
class VersionPolicy:
    """A version policy: serve specific versions, if they exist, or the newest ones; without either, all."""

    latest: int | None = None
    specific: frozenset[int] | None = None

    @classmethod
    def of(cls, entry: Any) -> Self:
        """Return the policy of a `ModelConfig`; the default is the newest version alone."""
        policy = entry.model_version_policy
        match policy.WhichOneof("policy_choice"):
            case "all":
                return cls()
            case "specific":
                return cls(specific=frozenset(policy.specific.versions))
        return cls(latest=max(policy.latest.num_versions, 1))

    def select(self, existing: Collection[int]) -> frozenset[int]:
        """Return the versions to serve of those that exist."""
        if self.specific is not None:
            return self.specific & frozenset(existing)
        return frozenset(existing if self.latest is None else sorted(existing)[-self.latest :])


def folder_of(entry: Any, models_dir: Path) -> str | None:
    """Return the name of the directory of a `ModelConfig` in the repository; None if its base path is elsewhere."""
    path = PurePosixPath(entry.base_path)
    return path.name if path.parent in (CONTAINER_ROOT, PurePosixPath(models_dir.resolve())) else None


def version_number(text: str) -> int | None:
    """Return the number of a version, by the name of its directory; None for a name that model servers ignore."""
    # Python does not parse 5,000 digits.
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
    return None if number is None or number > _MAX_VERSION else number


def version_numbers(home: Path) -> list[int]:
    """Return the numbers of the versions in a model's directory, ascending.

    Raises:
        OSError: `home` is not a directory or cannot be read.
    """
    numbers = (version_number(path.name) for path in home.iterdir())
    return sorted(number for number in numbers if number is not None)


def read_labels(models_dir: Path) -> Labels:
    """Read the labels; a missing file has none.

    Raises:
        ContractError: the file is unreadable or malformed.
    """
    path = models_dir / LABELS_FILE
    try:
        document = json.loads(read_file(path).decode())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ContractError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(document, dict):
        raise ContractError(f"{path}: must hold an object, got {type(document).__name__}")
    for name, labels in document.items():
        for label, version in labels.items() if isinstance(labels, dict) else [("", labels)]:
            is_version = isinstance(version, int) and not isinstance(version, bool) and 0 <= version <= _MAX_VERSION
            if not re.fullmatch(LABEL_PATTERN, label) or not is_version:
                raise ContractError(
                    f"{path}: {name}.{label} must be a label with the number of a version, got {version!r}"
                )
    return document


def read_shares(path: Path) -> dict[str, Shares]:
    """Read the routing file, a table per model with a share per label or version; without it, there are no splits.

    Raises:
        ContractError: the file is unreadable or malformed.
    """
    try:
        text = read_file(path).decode()
        document = tomllib.loads(text)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ContractError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ContractError(f"{path}: {error}") from error
    if not text.strip():
        # It may be half written. To end all traffic splits, delete the file or leave only a comment in it.
        raise ContractError(f"{path}: is empty")
    for name, table in document.items():
        if not isinstance(table, dict) or not table:
            raise ContractError(f"{path}: {name} must be a table such as [{name}] with lines such as stable = 90")
        for target, share in table.items():
            if not re.fullmatch(f"[0-9]{{1,19}}|{LABEL_PATTERN}", target):
                raise ContractError(f"{path}: {name}.{target} must be a label or the number of a version")
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= MAX_SHARE:
                raise ContractError(f"{path}: {name}.{target} must be a number from 0 to {MAX_SHARE:g}, got {share!r}")
        if sum(table.values()) <= 0:
            raise ContractError(f"{path}: {name} must have a share above 0")
    return document
