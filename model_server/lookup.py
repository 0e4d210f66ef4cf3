"""From a model's name, and a version or a label, to what serves it.

Knows the rules and TensorFlow Serving's texts. Is never changed, only replaced: requests read it without a lock.
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
    """What is served at one moment.

    Attributes:
        served: What serves each available version of each model.
    """

    served: Mapping[str, Mapping[int, S]] = field(default_factory=dict)
    labels: Labels = field(default_factory=dict)

    def find(self, name: str, version: int | None = None, label: str | None = None) -> S:
        """Return what serves a version, the newest one when neither version nor label is given.

        Raises:
            InvalidRequest: no name, or a label that the model does not have.
            ServableNotFound: the model or the version is unknown or not available.
        """
        if not name:
            raise InvalidRequest("ModelSpec has no name specified.")
        if label is not None:
            version = self.labels.get(name, {}).get(label)
            if version is None:
                raise InvalidRequest(f"Unrecognized servable version label: {label}")
        versions = self.served.get(name, {})
        wanted = max(versions, default=None) if version is None else version
        if wanted is None or wanted not in versions:
            request = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise ServableNotFound(f"Servable not found for request: {request}")
        return versions[wanted]


def new_labels(config: ServerConfig, lookup: Lookup[S], *, allow_unavailable: bool) -> Labels:
    """Return the labels of a config, once they are found to be allowed.

    Args:
        config: What is to come.
        lookup: What is served now.
        allow_unavailable: Whether a label may point at a version that is not available. Even so, one that exists may
            not be moved to such a version: its users would be left with nothing.

    Raises:
        LabelRefused: a label points at a version that is not available.
    """
    for name, model in config.items():
        available: Set[int] = lookup.served.get(name, {}).keys()
        known = lookup.labels.get(name, {})
        for label, version in model.labels.items():
            is_moved = known.get(label, version) != version
            if version not in available and (is_moved or not allow_unavailable):
                raise LabelRefused(
                    f"Request to assign label to version {version} of model {name}, "
                    "which is not currently available for inference"
                )
    return {name: dict(model.labels) for name, model in config.items()}
