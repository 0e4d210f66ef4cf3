"""`labels.json`: what the versions of each model are called.

A file of its own: in `models.config` a label that moves to a version which is not loaded yet has TensorFlow Serving
refuse the whole file, and so never load that version. Gateways, which read this one, wait. Imports no TensorFlow.
"""

import json
import os
import re
from pathlib import Path

from contract.signatures import LABEL_PATTERN, LABELS_FILE
from export.errors import PublishError

Labels = dict[str, dict[str, int]]


def read_labels(models_dir: Path) -> Labels:
    """Return the version of each label of each model; none if there is no file.

    Raises:
        PublishError: the file cannot be read, or holds something else.
    """
    path = models_dir / LABELS_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise PublishError(f"{path}: {error}") from error
    if not isinstance(document, dict) or not all(map(_are_labels, document.values())):
        raise PublishError(f"{path}: must hold the labels of each model, with the number of a version each")
    return document


def write_labels(models_dir: Path, labels: Labels) -> None:
    """Write the file anew; models without labels are left out. The caller holds the lock of `models.config`."""
    path = models_dir / LABELS_FILE
    draft = path.with_name(f".{LABELS_FILE}.{os.getpid()}")
    kept = {name: dict(sorted(of_model.items())) for name, of_model in sorted(labels.items()) if of_model}
    draft.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


def _are_labels(value: object) -> bool:
    return isinstance(value, dict) and all(
        re.fullmatch(LABEL_PATTERN, label) and isinstance(version, int) and not isinstance(version, bool)
        for label, version in value.items()
    )
