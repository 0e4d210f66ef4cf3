"""Version labels of each model: `labels.json` in the model repository.

Exporters write it, gateways read it. The labels are not in `models.config`: when a label there moves to a version that
is not loaded yet, TensorFlow Serving rejects the whole file, so the version never loads. Gateways wait for the version.
"""

import json
import re
from pathlib import Path

from contract.errors import ContractError
from contract.files import read_file

LABELS_FILE = "labels.json"
# Default label of requests that name only a model.
STABLE = "stable"
LABEL_PATTERN = "[a-z][a-z0-9_-]{0,31}"

# Model name to label to version.
Labels = dict[str, dict[str, int]]


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
            if not re.fullmatch(LABEL_PATTERN, label) or isinstance(version, bool) or not isinstance(version, int):
                raise ContractError(
                    f"{path}: {name}.{label} must be a label with the number of a version, got {version!r}"
                )
    return document
