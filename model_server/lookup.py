"""Resolution of a model's name, and a version or a label, to a servable.

Knows the rules and TensorFlow Serving's error messages. Immutable: requests read it without a lock.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from model_server.config import ServerConfig
from model_server.errors import InvalidRequest, LabelRefused, ServableNotFound

S = TypeVar("S")
# Version number of each label of each model.
Labels = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Lookup(Generic[S]):
    """A snapshot of the served versions.

    Attributes:
        served: The servable of each available version of each model.
    """

    served: Mapping[str, Mapping[int, S]] = field(default_factory=dict)
    labels: Labels = field(default_factory=dict)

    def find(self, name: str, version: int | None = None, label: str | None = None) -> S:
        """Return the servable of a version; without version and label, that of the newest.

        Raises:
            InvalidRequest: the name is empty, or the model does not have the label.
            ServableNotFound: the model or the version is unknown or not available.
        """
        if not name:
            raise InvalidRequest("ModelSpec has no name specified.")
        if label is not None:
            version = self.labels.get(name, {}).get(label)
            if version is None:
                raise InvalidRequest(f"Unrecognized servable version label: {label}")
        versions = self.served.get(name, {})
        resolved = max(versions, default=None) if version is None else version
        if resolved is None or resolved not in versions:
            request = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise ServableNotFound(f"Servable not found for request: {request}")
        return versions[resolved]


def new_labels(config: ServerConfig, lookup: Lookup[S], *, allow_unavailable: bool) -> Labels:
    """Return the labels of a config; raise LabelRefused if one points to a version that is not available.

    If `allow_unavailable`, a new label may point to such a version. An existing label may never move to one, because
    its users would get errors.
    """
    for name, model in config.items():
        available: Set[int] = lookup.served.get(name, {}).keys()
        current = lookup.labels.get(name, {})
        for label, version in model.labels.items():
            is_moved = current.get(label, version) != version
            if version not in available and (is_moved or not allow_unavailable):
                raise LabelRefused(
                    f"Request to assign label to version {version} of model {name}, "
                    "which is not currently available for inference"
                )
    return {name: dict(model.labels) for name, model in config.items()}
