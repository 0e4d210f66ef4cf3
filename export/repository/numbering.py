"""Numbers of new versions. A number of a removed version is not given again while other versions of the model remain.

A model server that polls a directory sees the same numbers before and after, and would keep serving the removed version
under the number of the new one. Where no version remains, `export.repository.removal` waits until servers have unloaded
the model, and numbers start at 1 again.
"""

from collections.abc import Collection
from pathlib import Path

from contract.files import write_atomically
from contract.models_config import version_numbers

# In a model's directory: the highest number that was removed. Model servers ignore names that are not numbers.
LAST_REMOVED_FILE = ".last-removed"


def next_version(home: Path) -> int:
    """Return the number of the next version in a model's directory."""
    return max([_last_removed(home), *version_numbers(home)]) + 1


def retire(home: Path, removed: Collection[int], remaining: Collection[int]) -> None:
    """Record that versions are about to be removed. The caller holds the lock.

    Raises:
        OSError: the record cannot be written.
    """
    path = home / LAST_REMOVED_FILE
    if not remaining:
        path.unlink(missing_ok=True)
    elif max(removed) > max(remaining):
        write_atomically(path, f"{max([_last_removed(home), *removed])}\n")


def _last_removed(home: Path) -> int:
    try:
        return int((home / LAST_REMOVED_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return 0
