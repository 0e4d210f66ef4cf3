"""`labels.json` in the model repository: what the versions of each model are called.

Exporters write it, gateways read it. In `models.config`, TensorFlow Serving's own, a label that moves to a version that
is not loaded yet has the whole file refused, so that the version never is; gateways wait for it.
"""

import json
import re
from pathlib import Path

from contract.errors import LabelsError

LABELS_FILE = "labels.json"
# What answers requests that name a model alone.
STABLE = "stable"
LABEL_PATTERN = "[a-z][a-z0-9_-]{0,31}"

# The version of each label of each model.
Labels = dict[str, dict[str, int]]


def read_labels(models_dir: Path) -> Labels:
    """Read the file; none is no labels.

    Raises:
        LabelsError: it cannot be read, or holds something else.
    """
    path = models_dir / LABELS_FILE
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise LabelsError(f"{path}: {error}") from error
    if not isinstance(document, dict):
        raise LabelsError(f"{path}: must hold an object, got {type(document).__name__}")
    for name, labels in document.items():
        for label, version in labels.items() if isinstance(labels, dict) else [("", labels)]:
            if not re.fullmatch(LABEL_PATTERN, label) or isinstance(version, bool) or not isinstance(version, int):
                raise LabelsError(
                    f"{path}: {name}.{label} must be a label with the number of a version, got {version!r}"
                )
    return document
