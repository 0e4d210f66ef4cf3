"""`sostenuto promote` and `rollback`: choose the version of requests that name none, while requests run.

Knows what the labels mean. A label takes effect once gateways have re-read `labels.json` and the version is loaded;
running sequences stay on their version.
"""

import re
from pathlib import Path

from contract.labels import LABEL_PATTERN, STABLE
from contract.signatures import MODELS_CONFIG
from export.errors import RepositoryError
from export.repository.models_config import change_labels
from export.repository.versions import Repository

# Label of the previously stable version, which `rollback` returns to.
PREVIOUS = "previous"


def promote(models_dir: Path, reference: str, label: str) -> int:
    """Point a label at a version, NAME:VERSION, or NAME for the newest. Returns the exit code.

    "stable" is the version of requests that name only the model.

    Raises:
        RepositoryError: there is no such version, it cannot be read, or the label is invalid.
        PublishError: `models.config` does not list the model, or cannot be parsed.
    """
    if not re.fullmatch(LABEL_PATTERN, label) or label == PREVIOUS:
        raise RepositoryError(
            f"label must be lower-case letters, digits, - and _, such as stable or canary, and not {PREVIOUS}, which "
            f"is reserved for the previous stable version; got {label!r}"
        )
    version = Repository(models_dir).named(reference)[-1]
    version.read()
    name, number = version.path.parent.name, version.number
    before: dict[str, int] = {}

    def change(labels: dict[str, int], versions: list[int]) -> dict[str, int]:
        if number not in versions:
            raise RepositoryError(f"{name} has no version {number} under its base_path in {MODELS_CONFIG}")
        before.update(labels)
        changed = {**labels, label: number}
        if label == STABLE:
            # Without a stable label, the newest version was served.
            previous = labels.get(STABLE, max(versions, default=number))
            changed |= {PREVIOUS: previous} if previous != number else {}
        return changed

    change_labels(models_dir, name, change)
    _report(name, label, before.get(label), number)
    return 0


def rollback(models_dir: Path, name: str) -> int:
    """Point "stable" at the previously stable version. Returns the exit code.

    Raises:
        RepositoryError: there is no such model, or no previous version.
        PublishError: `models.config` does not list the model, or cannot be parsed.
    """
    numbers = [version.number for version in Repository(models_dir).named(name)]
    if ":" in name:
        raise RepositoryError(f"rollback takes NAME; to choose a version: sostenuto promote {name}")

    def change(labels: dict[str, int], versions: list[int]) -> dict[str, int]:
        stable = labels.get(STABLE, max(versions, default=0))
        older = [version for version in versions if version < stable]
        # Without a promotion the newest version was stable, and before that its predecessor.
        previous = labels.get(PREVIOUS) if STABLE in labels else max(older, default=None)
        if previous is None or previous not in numbers:
            raise RepositoryError(f"{name} has no earlier stable version than {stable}: nothing to roll back to")
        return {**labels, STABLE: previous, PREVIOUS: stable}

    labels = change_labels(models_dir, name, change)
    _report(name, STABLE, labels[PREVIOUS], labels[STABLE])
    return 0


def _report(name: str, label: str, before: int | None, now: int) -> None:
    if before == now:
        print(f"{name}: {label} is already version {now}")
    else:
        print(f"{name}: {label} is now version {now}" + (f" (was {before})" if before is not None else ""))
