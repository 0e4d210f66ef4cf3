"""Entries of `models.config`: which versions of which directory are served, alike for all that read the file.

TensorFlow Serving's messages are arguments.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

# Directory of the models in TensorFlow Serving's container, and so in a config file for both servers.
CONTAINER_ROOT = PurePosixPath("/models")


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


def version_numbers(home: Path) -> list[int]:
    """Return the numbers of the versions in a model's directory, ascending.

    Raises:
        OSError: `home` is not a directory or cannot be read.
    """
    return sorted(int(path.name) for path in home.iterdir() if path.name.isascii() and path.name.isdigit())
